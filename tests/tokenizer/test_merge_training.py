"""The compiled merge loop against the readable one, and both against Hugging Face's trainer."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.tokenizer import Tokenizer, counting, merge_training, merging, training
from groundup.tokenizer.counting import Pretokens
from groundup.tokenizer.patterns import splitter, to_text

QUIET = lambda done, total: None  # noqa: E731
WORDS = st.dictionaries(st.text("aabcé", min_size=1, max_size=14), st.integers(1, 5), max_size=25)


@given(counts=WORDS, n_merges=st.integers(0, 60), ties=st.sampled_from(["greatest", "huggingface"]))
def test_both_loops_learn_the_same_merges(counts, n_merges, ties):
    assert merge_training.learn(Pretokens.of(counts), n_merges, QUIET, ties) == merging.learn(counts, n_merges, QUIET, ties)


def invented_text(seed: int) -> str:
    """Words of a made-up language, the frequent ones short, so that many pairs tie and some do not."""
    draw = random.Random(seed)
    words = ["".join(draw.choice("aeioutnsrlé  ") for _ in range(draw.randint(1, 12))) for _ in range(3000)]
    return " ".join(words[min(int(draw.paretovariate(0.7)), len(words)) - 1] for _ in range(60_000))


def test_arrays_that_grow_change_nothing(monkeypatch):
    counts = Counter(invented_text(0).split())
    whole = merging.learn(counts, 400, QUIET)
    monkeypatch.setattr(merge_training, "FIRST_PAIRS", 4)
    monkeypatch.setattr(merge_training, "SLICE", 7)
    assert merge_training.learn(Pretokens.of(counts), 400, QUIET) == whole


@pytest.mark.parametrize("seed", range(3))
def test_ties_as_in_hugging_faces_trainer(seed):
    text = invented_text(seed)
    theirs = HuggingFace(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    theirs.train_from_iterator([text], trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False))
    ours = Tokenizer.train([text], 1500, special_tokens=(), ties="huggingface")
    names = {ours.token_bytes[i]: i for i in range(ours.vocab_size)}
    learned = [token for token, _ in sorted(theirs.get_vocab().items(), key=lambda item: item[1])][256:]
    assert [names[theirs.decoder.decode([token]).encode()] for token in learned] == list(range(256, 1500))


@pytest.mark.parametrize("part", ["COMPILED_SYMBOLS", "COMPILED_BYTES"])
def test_much_text_is_learned_by_compiled_loops_to_the_same_end(monkeypatch, part):
    texts = [invented_text(1), "été <|endoftext|>" + invented_text(3), b"\xff\x00 bytes"]
    plain = Tokenizer.train(texts, 700)
    monkeypatch.setattr(training, part, 1)
    called = []
    compiled = merge_training.learn
    monkeypatch.setattr(merge_training, "learn", lambda *a: called.append(1) or compiled(*a))
    assert Tokenizer.train(texts, 700).merges == plain.merges and called
    assert Tokenizer.train(reversed(texts), 700, n_workers=1).merges == plain.merges


@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=30) | st.text("ab ", max_size=30), min_size=1, max_size=5))
def test_counts_are_those_of_the_pattern_whatever_the_room_and_the_threads(texts):
    expected = Counter(piece for text in texts for piece in splitter("gpt2")(to_text(text.encode())))
    tables = [counting.Counter("gpt2", 1, 1), counting.Counter("gpt2", 1, 1)]
    for i, text in enumerate(texts):
        tables[i % 2].add(text.encode())
    tables[0].join(tables[1].pretokens())
    found, start = Counter(), 0
    text, ends, counts = tables[0].pretokens()
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        found[to_text(text[start:end].tobytes())] += count
        start = end
    assert found == expected and len(ends) == len(expected)


def test_an_interrupt_between_slices_ends_the_learning(monkeypatch):
    monkeypatch.setattr(merge_training, "SLICE", 5)

    def interrupt(done, total):
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_training.learn(Pretokens.of(Counter(invented_text(2).split())), 100, interrupt)


def test_no_words_and_words_of_one_byte_have_no_merges():
    assert merge_training.learn(Pretokens.of({}), 5, QUIET) == []
    assert merge_training.learn(Pretokens.of({"a": 3, "b": 1}), 5, QUIET) == []
