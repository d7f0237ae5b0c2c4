"""ARPA files: KenLM reads ours to the same scores, we read KenLM's, and a broken file is named by its line."""

from pathlib import Path

import numpy as np
import pytest

from groundup.errors import GroundupError, UsageError
from groundup.history.arpa import read_arpa, write_arpa
from groundup.history.counts import count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import kneser_ney, stupid_backoff
from groundup.history.symbols import Bytes, Words

SENTENCES = [
    "the old house stood on the hill",
    "the old man lived in the old house",
    "on the hill the wind was cold",
    "a cold wind came in the night",
    "",
    "the night was old and the man was cold",
    "he said the house was his house",
    "naïve words \u2028and the\u00a0rest",
]

SMALL = """# made by hand
\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.4\t</s>
-0.3\ta\t-0.2

\\2-grams:
-0.1\t<s> a
-0.2\ta </s>

\\end\\
"""


def model_of(sentences: list[str], order: int) -> NgramModel:
    words = Words.of(sentences)
    counts = count((words.sentence(s) for s in sentences), order=order, vocab_size=words.vocab_size, begin=words.begin)
    return kneser_ney(counts, symbols=words)


def scores(model: NgramModel, sentence: str) -> np.ndarray:
    assert isinstance(model.symbols, Words)
    return model.log_probs([np.array([model.begin])], [model.symbols.sentence(sentence)])[0] / np.log(10)


@pytest.mark.parametrize("order", [2, 3, 5])
def test_kenlm_reads_our_file_and_gives_every_word_the_same_probability(tmp_path: Path, order: int):
    kenlm = pytest.importorskip("kenlm")
    model = model_of(SENTENCES, order)
    write_arpa(model, tmp_path / "ours.arpa")
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    theirs = kenlm.Model(str(tmp_path / "ours.arpa"), config)
    for sentence in [*SENTENCES, "the wind stood on a strange house", "unheard of", "old old old the the"]:
        wanted = [p for p, _, _ in theirs.full_scores(sentence)]
        np.testing.assert_allclose(scores(model, sentence), wanted, atol=1e-5)
        np.testing.assert_allclose(scores(read_arpa(tmp_path / "ours.arpa"), sentence), wanted, atol=1e-5)


@pytest.mark.parametrize("sentences", [[""], ["a"], ["a b"]])
def test_a_text_of_one_short_line_makes_a_file_too(tmp_path: Path, sentences: list[str]):
    model = model_of(sentences, 5)
    write_arpa(model, tmp_path / "tiny.arpa")
    again = read_arpa(tmp_path / "tiny.arpa")
    assert again.levels == model.levels
    for sentence in ("a", "b a", ""):
        np.testing.assert_allclose(scores(again, sentence), scores(model, sentence), atol=1e-6)
    assert all("fallback" in note for note in model.notes)


def test_what_is_written_is_read_again(tmp_path: Path):
    model = model_of(SENTENCES, 4)
    write_arpa(model, tmp_path / "a.arpa")
    again = read_arpa(tmp_path / "a.arpa", symbols=model.symbols)
    assert again.levels == model.levels
    for name in ("token", "first", "suffix"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))
    np.testing.assert_allclose(again.prob, model.prob, rtol=1e-6)
    np.testing.assert_allclose(again.backoff[1:], model.backoff[1:], rtol=1e-6)
    text = b"the cat and the dog and the cat"
    model = kneser_ney(count([np.frombuffer(text, np.uint8)], order=3, vocab_size=257, begin=256))
    write_arpa(model, tmp_path / "bytes.arpa")
    again = read_arpa(tmp_path / "bytes.arpa", symbols=Bytes())
    np.testing.assert_allclose(
        again.log_probs([np.array([256])], [model.encode(text)])[0], model.log_probs([np.array([256])], [model.encode(text)])[0], atol=1e-5
    )


def test_a_file_by_hand(tmp_path: Path):
    path = tmp_path / "small.arpa"
    path.write_text(SMALL)
    model = read_arpa(path)
    np.testing.assert_allclose(scores(model, "a a b"), [-0.1, -0.2 - 0.3, -0.2 - 1.0, -0.4], atol=1e-6)
    path.write_text(SMALL.replace("-1.0\t<unk>\n", "").replace("1=4", "1=3").replace("\n", "\r\n"))
    assert scores(read_arpa(path), "b")[0] == -np.inf
    assert read_arpa(path).notes == ("not in the file, so of probability 0: <unk>",)


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("\\data\\", "data", 2, "starts with"),
        ("ngram 2=2", "ngram 3=2", 4, "'ngram 2='"),
        ("ngram 2=2", "ngram 2=many", 4, "'ngram 2='"),
        ("ngram 1=4", "ngram 1=5", 12, "comes after 4 1-grams, the head of the file says 5"),
        ("ngram 1=4", "ngram 1=3", 10, "-grams: should stand here"),
        ("ngram 2=2", "ngram 2=3", 16, "comes after 2 2-grams, the head of the file says 3"),
        ("\\2-grams:", "\\3-grams:", 12, "2-grams: should stand here"),
        ("-0.1\t<s> a", "-0.1\t<s> b", 13, "'b' has no 1-gram"),
        ("-0.1\t<s> a", "0.1\t<s> a", 13, "should be the log10 of a probability"),
        ("-0.1\t<s> a", "x\t<s> a", 13, "should be the log10 of a probability"),
        ("-0.1\t<s> a", "nan\t<s> a", 13, "should be the log10 of a probability"),
        ("a\t-0.2", "a\tinf", 10, "of a back-off weight"),
        ("-0.1\t<s> a", "-0.1\t<s> a a a", 13, "not 5 fields"),
        ("-0.1\t<s> a", "-0.1\ta </s>", 14, "'a </s>' stands here for the second time"),
        ("\\end\\", "\\fin\\", 16, "should stand here"),
    ],
)
def test_a_broken_file_is_named_by_its_line(tmp_path: Path, old: str, new: str, line: int, what: str):
    path = tmp_path / "broken.arpa"
    path.write_text(SMALL.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"broken.arpa: line {line}: .*") as error:
        read_arpa(path)
    assert what in str(error.value)


def test_more_than_probability_one_is_named(tmp_path: Path):
    (tmp_path / "much.arpa").write_text(SMALL.replace("-0.4\t</s>", "-0.1\t</s>"))
    with pytest.raises(UsageError, match=r"much\.arpa: its 1-grams have a probability of 1\.396 together"):
        read_arpa(tmp_path / "much.arpa")


def test_holes_and_ends_are_named(tmp_path: Path):
    write_arpa(model_of(SENTENCES, 3), tmp_path / "whole.arpa")
    lines = (tmp_path / "whole.arpa").read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if "\told house\t" in line)
    lines[2] = lines[2].replace(lines[2].partition("=")[2], str(int(lines[2].partition("=")[2]) - 1))
    (tmp_path / "hole.arpa").write_text("\n".join(lines[:at] + lines[at + 1 :]))
    with pytest.raises(UsageError, match=r"hole.arpa: line \d+: a part of this n-gram, 'old house', is not in the file"):
        read_arpa(tmp_path / "hole.arpa")
    (tmp_path / "short.arpa").write_text("\n".join(lines[:at]))
    with pytest.raises(UsageError, match=f"short.arpa: ends after line {at}"):
        read_arpa(tmp_path / "short.arpa")
    (tmp_path / "nothing.arpa").write_text("")
    with pytest.raises(UsageError, match=r"nothing\.arpa: ends after line 0"):
        read_arpa(tmp_path / "nothing.arpa")
    with pytest.raises(UsageError, match="cannot be read"):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "unbegun.arpa").write_text(SMALL.replace("<s>", "s"))
    with pytest.raises(UsageError, match="<s> has no 1-gram"):
        read_arpa(tmp_path / "unbegun.arpa")


def test_what_no_file_can_say_is_refused(tmp_path: Path):
    words = Words.of(SENTENCES)
    counts = count((words.sentence(s) for s in SENTENCES), order=2, vocab_size=words.vocab_size, begin=1)
    with pytest.raises(UsageError, match="cannot say what each context is normalized by"):
        write_arpa(stupid_backoff(counts, symbols=words), tmp_path / "no.arpa")
    blank = Words(("<unk>", "<s>", "</s>", "two words"))
    model = kneser_ney(count([np.array([3, 2])], order=2, vocab_size=4, begin=1), symbols=blank)
    with pytest.raises(UsageError, match="cannot hold the symbol 'two words'"):
        write_arpa(model, tmp_path / "no.arpa")
    assert not list(tmp_path.iterdir())
    with pytest.raises(GroundupError, match="cannot be written"):
        write_arpa(model_of(SENTENCES, 2), tmp_path / "no folder" / "a.arpa")


def test_words_are_numbered_as_kenlm_does():
    words = Words.of(["b a b", "c b"], most=2)
    assert words.words == ("<unk>", "<s>", "</s>", "b", "a")
    np.testing.assert_array_equal(words.sentence("b c\ta"), [3, 0, 4, 2])
    assert words.decode(np.array([3, 4, 2, 3])) == b"b a\nb"
    with pytest.raises(UsageError, match="the text has </s> in it"):
        Words.of(["a </s>"])
    with pytest.raises(UsageError, match="starts with"):
        Words(("<unk>", "<s>", "</s>", "a", "a"))
    with pytest.raises(UsageError, match="stand for no exact bytes"):
        words.n_bytes(np.array([3]))
