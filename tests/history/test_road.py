"""The road on a tiny corpus: stops within a budget, kept as they finish, drawn and told."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from groundup.errors import UsageError
from groundup.history import compressors, guessing, road, stops, study
from groundup.history.mixture import Mixture, best_weight
from groundup.history.road import Listener, choose, read_road, travel
from groundup.history.study import Text, cut_pieces, read_text, spread
from groundup.history.training import Recipe, SymbolStream, Trainer, adamw, train

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "the", "dog", "ran", "to", "the", "red", "house", "in", "an", "old", "town"]


def sentences(n: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return "".join(" ".join(rng.choice(WORDS, 8)) + ".\n" for _ in range(n))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i}.txt").write_text(sentences(60, i))
    return folder


def test_a_road_end_to_end(corpus, tmp_path, monkeypatch):
    """Counting, recurrent and mixed stops, each scored on the same bytes; a second journey finds them done."""
    small = {key: dataclasses.replace(recipe, widths=recipe.widths[:1]) for key, recipe in stops.RECIPES.items()}
    monkeypatch.setattr(stops, "RECIPES", small)
    out, told = tmp_path / "out", []

    class Ears(Listener):
        def begin(self, stop, seconds):
            told.append(stop.key)

    keys = ("unigram", "elman", "bengio-mix", "train")
    still = {"clock": lambda: 0.0}  # shares do not shrink, however slow the machine is
    found = travel([str(corpus)], 4.5 + road.LEAST_SHARE_S * 4, choose(keys), out, listener=Ears(), **still)
    by_key = {r.key: r for r in found.results}
    assert set(by_key) == set(keys) - {"train"}
    assert told == ["unigram", "train", "elman", "bengio-mix"]  # those that keep to the clock make up for the others
    assert "wants" in found.left_out["train"]  # a whole run does not fit a second, and that is said
    assert len({r.n_bytes for r in found.results}) == 1 and found.n_bytes["test"] == by_key["elman"].n_bytes
    for r in found.results:
        assert 0.5 < r.bits_per_byte < 8.5 and r.parameters > 0
        assert (r.training_flops is None) == (r.family == "counting")
        assert r.interval is None or r.interval[0] <= r.bits_per_byte <= r.interval[1]
    assert by_key["bengio-mix"].bits_per_byte < by_key["unigram"].bits_per_byte
    letters, symbols = found.entropies["27 letters"], found.entropies["bytes"]
    assert letters[0] == pytest.approx(math.log2(27)) and symbols[0] == 8
    assert letters == sorted(letters, reverse=True) and symbols == sorted(symbols, reverse=True)  # longer blocks leave less open
    assert read_road(out) == found
    again = travel([str(corpus)], found.budget_s, choose(keys[:3]), out, **still)
    assert again.results == found.results
    with pytest.raises(UsageError, match="another text or budget"):
        travel([str(corpus)], 77.0, choose(keys), out)


def test_an_interrupted_attempt_is_paid_for_and_what_the_budget_no_longer_holds_is_left_out(corpus, tmp_path):
    now = [0.0]

    def build(text, seconds, tell):
        now[0] += 50.0
        raise KeyboardInterrupt

    def again(*stops):
        return travel([str(corpus)], 60.0, stops, tmp_path / "out", clock=lambda: now[0])

    unigram, bigram, trigram = choose(("unigram", "bigram", "trigram"))
    with pytest.raises(KeyboardInterrupt):
        again(unigram, dataclasses.replace(bigram, build=build))
    assert read_road(tmp_path / "out").spent_s == 50
    assert [r.key for r in again(unigram, bigram).results] == ["unigram", "bigram"]
    with pytest.raises(KeyboardInterrupt):
        again(dataclasses.replace(trigram, build=build))
    assert "of the budget were left" in again(unigram, bigram, trigram).left_out["trigram"]


def test_too_small_a_budget_says_the_least(corpus, tmp_path):
    with pytest.raises(UsageError, match=r"give at least .* or fewer stops"):
        travel([str(corpus)], 3.0, choose(()), tmp_path / "out")


def test_too_little_text_is_a_sentence(tmp_path):
    file = tmp_path / "line.txt"
    file.write_text("one line\n")
    with pytest.raises(UsageError, match="too little text"):
        read_text([str(file)], 10)
    file.write_text("")
    with pytest.raises(UsageError, match="no text"):
        read_text([str(file)], 10)


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "history.json").write_text("{")
    with pytest.raises(UsageError, match=r"history\.json"):
        read_road(tmp_path)


def test_an_unknown_stop_lists_those_there_are():
    with pytest.raises(UsageError, match="unigram"):
        choose(("nonsense",))
    assert [stop.year for stop in choose(())] == sorted(stop.year for stop in stops.STOPS)
    assert len({stop.key for stop in stops.STOPS}) == len(stops.STOPS)


def test_pieces_are_the_text_cut_at_lines():
    text = sentences(50, 0).encode()
    pieces = cut_pieces([text, b"x" * 1000], 300)
    assert b"".join(pieces) == text + b"x" * 1000 and max(map(len, pieces)) <= 300
    assert all(piece.endswith(b"\n") for piece in pieces[:3])
    assert spread(pieces, 10**9) == tuple(pieces) and len(spread(pieces, 1)) == 1


def test_the_stream_reads_every_symbol_once_an_epoch():
    symbols = np.arange(24).astype(np.int16)
    stream = SymbolStream(symbols, 2, 4, start=5)
    read = [stream.batch(step) for step in range(3)]
    assert sorted(s for inputs, _ in read for s in inputs.flatten().tolist()) == list(range(24))
    inputs, targets = read[1]
    assert inputs.tolist() == [[4, 5, 6, 7], [16, 17, 18, 19]] and targets.tolist() == [[-1, 6, 7, 8], [17, 18, 19, 20]]


def test_training_learns_and_counts_its_flops():
    symbols = np.frombuffer(sentences(200, 0).encode(), np.uint8).astype(np.int16)
    network = stops.LSTM(16)
    trainer = Trainer(network, adamw(network, 1e-2), SymbolStream(symbols, 8, 16))
    nats = [trainer.step(1.0) for _ in range(60)]
    assert np.mean(nats[-5:]) < 3.0 < nats[0]
    assert trainer.flops() == 3 * network.forward_flops(1, 1) * 60 * 8 * 16


def test_training_ends_by_the_clock_with_a_rate_of_zero():
    symbols = np.frombuffer(sentences(50, 0).encode(), np.uint8).astype(np.int16)
    told = []
    recipe = Recipe(lambda width: stops.Elman(width), seq_len=16, widths=(8, 12))
    trained = train(recipe, symbols, 0.3, tell=lambda done, progress: told.append(progress))
    assert trained.network.width in (8, 12) and trained.steps == len(told) >= 1
    assert told == sorted(told) and trained.symbols % 16 == 0


def test_the_carried_state_is_the_same_as_one_long_window():
    """Two windows of a row read what one twice as long reads, so that a learning rate of zero gives equal losses."""
    symbols = np.random.default_rng(0).integers(97, 123, size=400).astype(np.int16)
    losses = []
    for seq_len in (10, 20):
        network = stops.LSTM(8)
        trainer = Trainer(network, adamw(network, 0.0), SymbolStream(symbols, 4, seq_len))
        losses.append(np.mean([trainer.step(1.0) for _ in range(40 // seq_len)]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_mixture_is_its_parts_weighted():
    text = Text("t", (sentences(100, 0).encode(),), (sentences(5, 1).encode(),), (sentences(5, 2).encode(),))
    built = [stop.build(text, 1.0, lambda progress, words: None).model for stop in choose(("unigram", "trigram"))]
    mixed = Mixture("mixed", *built, 0.3)
    context, target = np.array([256]), mixed.encode("the cat")
    parts = [model.log_probs([context], [target])[0] for model in built]
    expected = np.log(0.3 * np.exp(parts[0]) + 0.7 * np.exp(parts[1]))
    np.testing.assert_allclose(mixed.log_probs([context], [target])[0], expected)
    stepped = super(Mixture, mixed).log_probs([context], [target])[0]
    np.testing.assert_allclose(stepped, expected, rtol=1e-6)


def test_the_best_weight_is_the_best():
    rng = np.random.default_rng(0)
    first, second = np.log(rng.uniform(0.1, 0.9, 500)), np.log(rng.uniform(0.1, 0.9, 500))
    found = best_weight(first, second)
    likelihood = {a: np.logaddexp(math.log(a) + first, math.log1p(-a) + second).sum() for a in np.linspace(0.01, 0.99, 99)}
    assert found == pytest.approx(max(likelihood, key=likelihood.get), abs=0.011)


@pytest.mark.parametrize("name", ["gzip -9", "xz -9e"])
def test_compressors_gain_from_what_they_have_read(name):
    held_out = sentences(40, 1).encode()
    found = compressors.compress(name, sentences(400, 0).encode(), held_out, 2.0)
    assert name in compressors.available()
    assert 0 < found.after_training < found.bits_per_byte < 8
    assert found.training_bytes > 0


def test_the_result_file_is_plain_json(corpus, tmp_path):
    found = travel([str(corpus)], 6.0, choose(("bigram",)), tmp_path, clock=lambda: 0.0)
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(found)))
    assert study.PIECE_BYTES[0] >= max(map(len, read_text([str(corpus)], 6.0).test))


def test_the_game_has_a_passage_and_a_rival():
    text = Text("t", tuple(sentences(100, i).encode() for i in range(3)), (), (sentences(30, 9).encode(),))
    hidden = guessing.passage(text, 0)
    assert hidden in guessing.Letters().decode(guessing.to_letters(text.test[0])).decode() and len(hidden) >= 200
    _, ranks = guessing.rival(text, hidden)
    assert len(ranks) == len(hidden) and ranks.max() < 27
    assert (ranks == 0).mean() > 0.5  # sixteen words: most letters follow from those before
    with pytest.raises(UsageError, match="letters to guess"):
        guessing.passage(dataclasses.replace(text, test=(b"short",)), 0)
