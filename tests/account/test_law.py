"""The laws: their closed forms against numeric minimisation and publications, and what repetition takes from them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.account.law import CHINCHILLA, DATA_CONSTRAINED, EPOCH, LAWS, SMALL_SCALE, find_law
from groundup.errors import UsageError

laws = st.sampled_from(list(LAWS.values()))


def lowest(f, low, high):
    """Where a function of one valley is least, by golden section over the logarithm."""
    a, b, golden = math.log(low), math.log(high), (math.sqrt(5) - 1) / 2
    while b - a > 1e-9:
        c, d = b - golden * (b - a), a + golden * (b - a)
        a, b = (a, d) if f(math.exp(c)) < f(math.exp(d)) else (c, b)
    return math.exp((a + b) / 2)


@given(laws, st.floats(14, 27), st.floats(4, 9))
def test_the_closed_form_is_the_numeric_minimum(law, exponent, k):
    flops = 10**exponent
    n, d = law.optimal(flops, k)
    assert n * d * k == pytest.approx(flops)
    assert n == pytest.approx(lowest(lambda n: law.loss(n, flops / k / n), n / 1e4, n * 1e4), rel=2e-3)
    assert law.best_parameters(d) == pytest.approx(n)


def test_publications_own_optima():
    """Besiroglu et al. find an exponent of 0.512 and about 20 tokens a parameter at Chinchilla's budget; the paper's constants 0.46."""
    for law, a in ((EPOCH, 0.512), (CHINCHILLA, 0.46)):
        found = math.log10(law.optimal(1e25).parameters / law.optimal(1e24).parameters)
        assert found == pytest.approx(a, abs=0.01)
    n, d = EPOCH.optimal(5.76e23)
    assert d / n == pytest.approx(20, rel=0.1) and 6.0e10 < n < 8.0e10
    n, d = CHINCHILLA.optimal(5.76e23)
    assert d / n > 50, "as printed, the paper's constants contradict its own 20 tokens a parameter"


def test_chinchillas_own_run_is_what_the_laws_are_known_to():
    assert CHINCHILLA.known_to_flops == EPOCH.known_to_flops == pytest.approx(6 * 70e9 * 1.4e12, rel=0.03)


def test_repetition_by_the_papers_formula():
    """Four epochs are worth 1 + 15.39 (1 - exp(-3 / 15.39)) fresh ones; sixteen, the same with 15 (Muennighoff et al. 2023)."""
    assert DATA_CONSTRAINED.effective_tokens(4.0, 1.0) == pytest.approx(3.73, abs=0.005)
    assert DATA_CONSTRAINED.effective_tokens(16.0, 1.0) == pytest.approx(10.58, abs=0.01)
    assert DATA_CONSTRAINED.effective_tokens(1e9, 1.0) == pytest.approx(16.39)


@given(laws, st.floats(6, 12), st.floats(6, 13), st.floats(6, 13))
def test_little_text_never_helps_and_plenty_changes_nothing(law, n, d, unique):
    n, d, unique = 10**n, 10**d, 10**unique
    assert law.loss(n, d, unique) >= law.loss(n, d) - 1e-12
    assert law.loss(n, d, 1e30) == pytest.approx(law.loss(n, d))
    assert law.loss(n, d, unique) >= law.loss(n, 2 * d, unique) >= law.loss(n, 2 * d, 2 * unique) - 1e-12


def test_parameters_beyond_what_the_text_deserves_fade_where_that_was_fitted():
    unique = 1e8
    deserved = EPOCH.best_parameters(unique)
    assert EPOCH.effective_parameters(deserved, unique) == deserved
    assert EPOCH.effective_parameters(1e6 * deserved, unique) == pytest.approx((1 + 5.31) * deserved)
    assert EPOCH.effective_parameters(6.31 * deserved, unique) == pytest.approx(deserved * (1 + 5.31 * (1 - 1 / math.e)))
    assert SMALL_SCALE.effective_parameters(1e30, unique) == 1e30


def test_a_loss_becomes_bits_a_byte():
    assert EPOCH.bits_per_byte(2.0, 4.0) == pytest.approx(2 / 4 / math.log(2))
    assert SMALL_SCALE.bits_per_byte(0.9, 4.0) == 0.9


def test_every_law_says_what_it_is_and_how_certain():
    assert "0.3478" in EPOCH.equation and "nats" in EPOCH.equation and "bits" in SMALL_SCALE.equation
    assert "alpha 0.3278 to 0.3678" in EPOCH.certainty and "one standard error" in EPOCH.certainty
    assert DATA_CONSTRAINED.certainty == "published without an interval"


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match=r"'kaplan'.*epoch, chinchilla"):
        find_law("kaplan")
    assert find_law("EPOCH") is EPOCH
    for flops in (0.0, -1.0, math.inf):
        with pytest.raises(UsageError, match="above 0"):
            EPOCH.optimal(flops)
