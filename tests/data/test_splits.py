"""The split follows the content alone, holds near-copies together, and works from one document to many."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data import Document, assign_splits, take
from groundup.data.corpus import Corpus
from groundup.data.near import SHINGLE_BYTES, cluster, similarity, sketch
from groundup.data.sources import Source
from groundup.data.splits import PIECE_BYTES
from groundup.errors import GroundupError, UsageError

WORDS = [bytes(random.Random(i).choices(b"abcdefghijklmnopqrstuvwxyz", k=random.Random(i).randint(2, 9))) for i in range(3000)]


def prose(seed: int, n_words: int) -> bytes:
    draw = random.Random(seed)
    return b" ".join(draw.choice(WORDS) + (b"\n" if i % 12 == 11 else b"") for i in range(n_words))


def edited(text: bytes, seed: int, n_edits: int) -> bytes:
    words, draw = text.split(b" "), random.Random(seed)
    for place in draw.sample(range(len(words)), n_edits):
        words[place] = draw.choice(WORDS)
    return b" ".join(words)


def corpus_of(texts) -> Corpus:
    documents = [Document(f"{i}.txt", text) for i, text in enumerate(texts)]
    return Corpus([Source("memory", "memory", lambda skipped: iter(documents))])


def placed(texts) -> dict[bytes, str]:
    corpus = corpus_of(texts)
    splits = assign_splits(corpus)
    return {document.text: splits.of(document) for document in corpus.documents()}


def jaccard(a: bytes, b: bytes) -> float:
    x, y = ({text[i : i + SHINGLE_BYTES] for i in range(len(text) - SHINGLE_BYTES + 1)} for text in (a, b))
    return len(x & y) / len(x | y)


def test_sketches_estimate_the_exact_jaccard_similarity():
    errors = []
    for seed in range(60):
        a = prose(seed, 200 + 40 * seed)
        b = edited(a, seed, seed * 2)
        errors.append(similarity(sketch(a)[None], sketch(b)[None])[0] - jaccard(a, b))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.05


def test_a_sketch_is_the_same_whether_sampled_or_not(monkeypatch):
    text = prose(1, 30_000)
    sampled = sketch(text)
    monkeypatch.setattr("groundup.data.near.CHUNK", 1000)
    np.testing.assert_array_equal(sketch(text), sampled)
    repeated = b"abcdefgh" * 50_000  # 8 shingles: sampling finds next to nothing, and all are taken
    np.testing.assert_array_equal(sketch(repeated), sketch(b"abcdefgh" * 2))


@pytest.mark.parametrize("n_words", [30, 300, 3000])
def test_near_copies_are_joined_and_others_are_not(n_words):
    originals = [prose(seed, n_words) for seed in range(100)]
    copies = [edited(text, 7, max(1, n_words // 60)) for text in originals]
    assert min(map(jaccard, originals, copies)) > 0.8
    labels = cluster(np.stack([sketch(text) for text in originals + copies]))
    np.testing.assert_array_equal(labels, list(range(100)) * 2)


def test_shared_boilerplate_does_not_join_documents():
    licence = prose(0, 100)
    labels = cluster(np.stack([sketch(licence + prose(seed, 300)) for seed in range(1, 200)]))
    np.testing.assert_array_equal(labels, range(199))


def test_hundreds_of_copies_are_one_cluster():
    text = prose(0, 400)
    labels = cluster(np.stack([sketch(edited(text, seed, 3)) for seed in range(300)]))
    assert (labels == 0).all()


@settings(max_examples=20)
@given(st.randoms(use_true_random=False), st.integers(0, 10_000), st.sampled_from([1, 2, 3, 8, 60, 400]))
def test_the_order_of_documents_changes_nothing(draw, seed, n_documents):
    texts = [prose(seed + i, 20 + 1000 // n_documents * (1 + i % 5)) for i in range(n_documents)]
    texts += [edited(text, seed, 1) for text in texts[::7] if n_documents > 3]
    one = assign_splits(corpus_of(texts))
    draw.shuffle(texts)
    other = assign_splits(corpus_of(texts))
    assert (one.held_out, one.cut, one.left_out, one.bytes) == (other.held_out, other.cut, other.left_out, other.bytes)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([4, 40, 300]))
def test_near_copies_are_never_in_different_splits(seed, n_documents):
    texts = [prose(seed * 1000 + i, 200) for i in range(n_documents)]
    groups = [[text, edited(text, 1, 2), edited(text, 2, 2)] for text in texts]
    corpus = corpus_of([text for group in groups for text in group])
    splits = assign_splits(corpus)
    where = {document.text: split for split, document in splits.apply(corpus.documents())}
    if splits.cut is None:
        assert all(len({where[text] for text in group}) == 1 for group in groups)
    else:
        assert sum(any(text in where for text in group) for group in groups) == len(groups) - 1
        assert len(splits.left_out) == 2


def test_more_documents_move_none_of_a_large_corpus():
    texts = [prose(i, 60) for i in range(3000)]
    before, after = placed(texts[:2000]), placed(texts)
    assert all(after[text] == split for text, split in before.items())
    shares = {split: count / len(after) for split, count in Counter(after.values()).items()}
    assert shares["validation"] == pytest.approx(0.025, abs=0.01)
    assert shares["test"] == pytest.approx(0.025, abs=0.01)


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.lists(st.integers(3, 2000), min_size=1, max_size=40))
def test_every_split_has_text_and_none_too_much(seed, sizes):
    texts = [prose(seed + 100 * i, size) for i, size in enumerate(sizes)]
    corpus = corpus_of(texts)
    total = sum(map(len, set(texts)))
    if total < 2048:
        with pytest.raises(UsageError, match=r"too little text.*2,048"):
            assign_splits(corpus)
        return
    splits = assign_splits(corpus)
    assert min(splits.bytes.values()) > 0
    assert sum(splits.bytes.values()) == total
    assert max(splits.bytes["validation"], splits.bytes["test"]) <= 0.2 * total
    pieces = list(splits.apply(corpus.documents()))
    found = Counter()
    for split, piece in pieces:
        found[split] += len(piece.text)
        assert splits.of(piece) == split
    assert found == splits.bytes
    assert Counter(split for split, _ in pieces) == splits.documents
    whole = b"".join(document.text for document in corpus.documents())
    assert b"".join(piece.text for _, piece in pieces) == whole


@pytest.mark.parametrize("end", [b"\n", b"", "é".encode()])
def test_one_document_is_cut_in_three_at_line_ends_or_characters(end):
    line = "naïve €".encode() * 11
    corpus = corpus_of([(line + end) * 400])
    splits = assign_splits(corpus)
    pieces = list(splits.apply(corpus.documents()))
    assert [(split, piece.id) for split, piece in pieces] == [(s, f"0.txt#{s}") for s in ("train", "validation", "test")]
    total = sum(splits.bytes.values())
    assert [splits.bytes[split] / total for split, _ in pieces] == pytest.approx([0.9, 0.05, 0.05], abs=0.02)
    for _, piece in pieces:
        piece.text.decode()
        assert end != b"\n" or piece.text.endswith(b"\n")
    assert "cut" in splits.manifest()["rule"]
    with pytest.raises(GroundupError, match=r"0\.txt is in no single split"):
        splits.of(next(corpus.documents()))


def test_copies_of_the_cut_document_are_left_out():
    text = prose(3, 2000)
    corpus = corpus_of([text, edited(text, 1, 5)])
    splits = assign_splits(corpus)
    assert splits.manifest()["n_left_out"] == 1
    assert len(list(splits.apply(corpus.documents()))) == 3


def test_many_short_near_copies_are_too_little_text():
    texts = [b"the same few words again and again, number %d" % i for i in range(100)]
    with pytest.raises(UsageError, match="near-identical copies"):
        assign_splits(corpus_of(texts))


def test_a_corpus_that_changes_between_readings_is_refused():
    texts = [prose(i, 200) for i in range(30)]
    splits = assign_splits(corpus_of(texts))
    with pytest.raises(GroundupError, match="changed while it was read"):
        list(splits.apply(corpus_of(texts[:-1]).documents()))


@settings(max_examples=30)
@given(st.integers(1, 400_000), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_share_of_a_long_document_is_pieces_of_it_in_order(n_bytes, share, lines):
    unit = b"one line of several words\n" if lines else b"\xc3\xa9"
    text = (unit * (n_bytes // len(unit) + 1))[:n_bytes]
    text = b"%d" % n_bytes + text
    every = list(take(Document("d", text), 1 - 1e-12)) if len(text) > PIECE_BYTES else [Document("d", text)]
    assert b"".join(piece.text for piece in every) == text
    assert all(len(piece.text) <= 1.5 * PIECE_BYTES for piece in every) and len({piece.id for piece in every}) == len(every)
    some = list(take(Document("d", text), share))
    assert {piece.text for piece in some} <= {piece.text for piece in every}
    assert [piece.text for piece in take(Document("d", text), 1.0)] == [text], "all of it is not cut"


def test_a_share_of_many_pieces_is_about_that_share():
    rng = np.random.default_rng(0)
    text = rng.integers(32, 127, 200 * PIECE_BYTES, dtype=np.uint8).tobytes()
    taken = sum(len(piece.text) for piece in take(Document("d", text), 0.3))
    assert 0.2 < taken / len(text) < 0.4
    shares = [{piece.id for piece in take(Document("d", text), share)} for share in (0.1, 0.3, 0.8)]
    assert shares[0] < shares[1] < shares[2]
