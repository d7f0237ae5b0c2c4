"""One script a claim: us against peers, interleaved, medians and a ratio; the results in ``results/`` fill the README's tables."""
