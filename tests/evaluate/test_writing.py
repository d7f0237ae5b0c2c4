"""How much of what a model writes is Python."""

import pytest

from groundup.evaluate.writing import parsed_share


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("x = 1\ny = 2\nz = (", 1.0),  # the last line is cut off anywhere
        ("x = 1\ny = = 2\nz = 3\n", 1 / 3),
        ("def f(:\n    pass\n", 0.0),
        ("def f():\n    return 1\nthese words are prose\n", 2 / 3),
        ('"\\d"\n', 1.0),  # a warning, not an error
        ("no newline", 0.0),
        ("", 0.0),
        ("x\0y\n", 0.0),
        ("(" * 2000 + "\n", 0.0),
    ],
)
def test_the_longest_beginning_that_parses(text, share):
    assert parsed_share(text) == pytest.approx(share)
