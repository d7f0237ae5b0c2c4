"""Training learns what the textbook's quadratic algorithm learns, whatever the workers, the order and the chunks."""

import hashlib
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import groundup
from groundup.errors import GroundupError, UsageError
from groundup.tokenizer import END_OF_TEXT, PATTERNS, Tokenizer, counting, parallel, training
from groundup.tokenizer.patterns import splitter, to_bytes, to_text


def textbook(texts: list[bytes], n_merges: int, pattern: str) -> list[tuple[bytes, bytes]]:
    """Counts every pair anew for every merge; ties go to the greater pair of byte strings."""
    words = Counter(tuple(bytes([b]) for b in to_bytes(p)) for text in texts for p in splitter(pattern)(to_text(text)))
    merges = []
    for _ in range(n_merges):
        pairs = Counter()
        for word, frequency in words.items():
            for pair in pairwise(word):
                pairs[pair] += frequency
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = Counter()
        for word, frequency in words.items():
            out, i = [], 0
            while i < len(word):
                joins = word[i : i + 2] == best
                out.append(word[i] + word[i + 1] if joins else word[i])
                i += 2 if joins else 1
            merged[tuple(out)] += frequency
        words = merged
    return merges


def merges_of(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    return [(tokenizer.token_bytes[left], tokenizer.token_bytes[right]) for left, right in tokenizer.merges]


def sources() -> list[bytes]:
    return [path.read_bytes() for path in sorted(Path(groundup.__file__).parent.glob("tokenizer/*.py"))]


TEXT = st.one_of(
    st.binary(max_size=60),
    st.text(alphabet="ab", max_size=60).map(str.encode),
    st.text(alphabet="aab b\né中", max_size=60).map(str.encode),
)


@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(0, 30), st.sampled_from(sorted(PATTERNS)))
def test_merges_are_the_textbooks(texts: list[bytes], n_merges: int, pattern: str) -> None:
    if not any(texts):
        return
    tokenizer = Tokenizer.train(texts, 256 + n_merges, pattern=pattern, special_tokens=(), n_workers=1)
    assert merges_of(tokenizer) == textbook(texts, n_merges, pattern)


def test_merges_of_real_text_are_the_textbooks() -> None:
    text = [sources()[-1][:6000]]
    assert merges_of(Tokenizer.train(text, 256 + 80, special_tokens=())) == textbook(text, 80, "gpt2")


def test_the_classic_example() -> None:
    tokenizer = Tokenizer.train([b"the cat in the hat"], 256 + 3, special_tokens=())
    assert tokenizer.vocab_size == 259
    assert tokenizer.token_bytes[256] == b"th"
    assert tokenizer.token_bytes[257] == b"the"


def test_same_tokenizer_for_any_workers_order_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sources()
    expected = Tokenizer.train(texts, 600, n_workers=1)
    monkeypatch.setattr("groundup.tokenizer.tokenizer._PIECE_BYTES", 300)
    monkeypatch.setattr("groundup.tokenizer.tokenizer._BATCH_BYTES", 2000)
    random.Random(0).shuffle(texts)
    for n_workers in (1, 2, 3):
        tokenizer = Tokenizer.train(iter(texts), 600, n_workers=n_workers)
        assert tokenizer.merges == expected.merges
        assert tokenizer.hash == expected.hash


def test_special_tokens_are_hard_boundaries_and_not_learned_from() -> None:
    texts = [b"ab<|x y|>ab<|x y|>", b"ab"]
    tokenizer = Tokenizer.train(texts, 400, special_tokens=("<|x y|>",), n_workers=1)
    assert merges_of(tokenizer) == [(b"a", b"b")]
    assert tokenizer.special_tokens == {"<|x y|>": 257}


def test_less_text_than_merges_gives_a_smaller_vocabulary() -> None:
    tokenizer = Tokenizer.train([b"abab"], 1000)
    assert merges_of(tokenizer) == [(b"a", b"b"), (b"ab", b"ab")]
    assert tokenizer.vocab_size == 256 + 2 + 1
    assert tokenizer.end_of_text == 258


def test_a_sample_does_not_depend_on_the_order() -> None:
    texts = [b"%d %s\n" % (i, word) * 400 for i, word in enumerate(b"one two three four five six seven eight nine ten".split())]
    sampled = Tokenizer.train(texts, 300, max_bytes=20_000, n_workers=1)
    assert sampled.hash == Tokenizer.train(reversed(texts), 300, max_bytes=20_000, n_workers=1).hash
    assert sampled.hash != Tokenizer.train(texts, 300, n_workers=1).hash
    everything = Tokenizer.train(texts, 300, max_bytes=10_000_000, n_workers=1)
    assert everything.hash == Tokenizer.train(texts, 300, n_workers=1).hash


def test_a_sample_is_as_large_as_asked() -> None:
    seen = []
    texts = [bytes([97 + i]) * 1000 + b" " for i in range(20)]
    Tokenizer.train(texts, 300, max_bytes=5000, n_workers=1, progress=lambda stage, done, total: seen.append((stage, done, total)))
    assert seen[0] == ("count", 5005, None)
    assert seen[-1][0] == "merge" and seen[-1][1] <= seen[-1][2] == 300 - 257


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"texts": [b"a"], "vocab_size": 256}, "vocab_size is 256: ask for 257"),
        ({"texts": [b"a"], "vocab_size": 2_000_000}, "1114112"),
        ({"texts": [], "vocab_size": 300}, "no text"),
        ({"texts": [b"", b""], "vocab_size": 300}, "no text"),
        ({"texts": b"text", "vocab_size": 300}, "pass a list"),
        ({"texts": [17], "vocab_size": 300}, "str or bytes, not int"),
        ({"texts": [b"a"], "vocab_size": 300, "pattern": "gpt9"}, "gpt9"),
        ({"texts": [b"a"], "vocab_size": 300, "special_tokens": ("<a>", "<a>")}, "'<a>' is empty or there twice"),
        ({"texts": [b"ab"], "vocab_size": 300, "special_tokens": ("a",)}, "'a' is also an ordinary token"),
        ({"texts": [b"a"], "vocab_size": 300, "n_workers": 0}, "n_workers is 0"),
        ({"texts": [b"a"], "vocab_size": 300, "max_bytes": 0}, "max_bytes is 0"),
    ],
)
def test_wrong_requests_are_named(arguments: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Tokenizer.train(**arguments)


def test_merges_that_make_no_sense_are_named() -> None:
    with pytest.raises(UsageError, match="merge 0 joins ids 97 and 256"):
        Tokenizer([(97, 256)])
    with pytest.raises(UsageError, match="merge 1 makes b'ab'"):
        Tokenizer([(97, 98), (97, 98)])


def fail_on_two(batch: int) -> int:
    if batch == 2:
        raise UsageError("two is too many")
    return batch * batch


def die(batch: int) -> int:
    parallel.os._exit(1)


def test_batches_come_back_in_order_and_errors_come_through() -> None:
    assert list(parallel.map_batches(fail_on_two, iter([5, 4, 3, 1] * 5), 2)) == [25, 16, 9, 1] * 5
    with pytest.raises(UsageError, match="two is too many"):
        list(parallel.map_batches(fail_on_two, [1, 2, 3], 2))


def test_a_worker_that_dies_is_an_error() -> None:
    with pytest.raises(GroundupError, match="n_workers=1"):
        list(parallel.map_batches(die, [1, 2, 3], 2))


def test_without_processes_one_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no semaphores")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", refuse)
    assert list(parallel.map_batches(abs, [-1, -2, -3], 2)) == [1, 2, 3]


def test_end_of_text_is_there_by_default() -> None:
    assert list(Tokenizer.train(["ab ab"], 300).special_tokens) == [END_OF_TEXT]


def test_memory_is_bounded_and_what_is_left_out_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("groundup.tokenizer.training.COMPILED_BYTES", 1)
    monkeypatch.setattr("groundup.tokenizer.training.PIECE", 20_000)
    words = [f"w{hashlib.sha256(str(i).encode()).hexdigest()[:10]}" for i in range(20_000)]
    texts = [" ".join([*words[i : i + 500], *["the cat sat"] * 50]).encode() for i in range(0, len(words), 500)]
    exact = Tokenizer.train(texts, 266, n_workers=2)
    assert not capfd.readouterr().err
    tables: list[counting.Counter] = []
    grow = counting.Counter._grow

    def noted(table: counting.Counter, *sizes: int) -> None:
        grow(table, *sizes)
        tables.append(table)

    monkeypatch.setattr(counting.Counter, "_grow", noted)
    training._say_what_is_left_out.cache_clear()
    monkeypatch.setattr("groundup.tokenizer.counting.Counter.__init__.__defaults__", (64, 256, None))  # from 3 MB else
    limit = 2_000_000
    bounded = Tokenizer.train(texts, 266, n_workers=2, memory_bytes=limit)
    assert "more different pre-tokens than fit into 0.002 GB" in capfd.readouterr().err
    assert sum({id(table): table.rows.nbytes + table.blob.nbytes + table.starts.nbytes for table in tables}.values()) < limit
    assert {b" the", b" cat", b" sat"} <= set(bounded.token_bytes) and len(bounded.merges) == len(exact.merges)
    assert Tokenizer.train(texts, 266, n_workers=2, memory_bytes=10 * limit).merges == exact.merges
