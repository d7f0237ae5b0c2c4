"""The road to transformers, each stop a real model: Shannon's entropies and game, n-grams, the unbounded n-gram, and the neural models.

Counting: ``counts.count`` -> ``smoothing.kneser_ney`` and others -> ``ngram.NgramModel``; ``arpa`` reads and writes them; ``suffix`` is the
n-gram of no fixed order; ``shannon`` and ``play`` are his experiments.
"""
