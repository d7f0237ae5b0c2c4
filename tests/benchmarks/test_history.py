"""The benchmarks of the road run whole on small text."""

import json

import numpy as np
import pytest

from benchmarks import bengio, coding
from groundup.errors import UsageError


def prose(n: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(30)]
    return "".join(" ".join(rng.choice(words, 9)) + ".\n" for _ in range(n))


def test_the_order_of_2003_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(bengio, "HELD_OUT_WORDS", 300)
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": prose(60, i)}) + "\n" for i in range(6)))
    found = bengio.run([str(file)], 2000, 8, 2.0, 5e-3, tell=lambda line: None)
    test = found["perplexity"]["test"]
    assert set(test) == {"network", "interpolated trigram", "modified Kneser-Ney", "mixed", "mixed, one half"}
    assert all(1 < value < found["setting"]["vocab_size"] + 5 for value in test.values())
    validation = found["perplexity"]["validation"]
    assert validation["mixed"] <= min(validation["network"], validation["interpolated trigram"]) * 1.001
    assert found["network"]["parameters"] > 0 and isinstance(found["order_holds"], bool)


def test_a_network_predicts_the_same_in_pieces():
    vocabulary, words = 12, np.random.default_rng(0).integers(3, 12, 50)
    network = bengio.Bengio(6, order=4, n_features=3, direct=False, vocab_size=vocabulary)
    whole, parts = (bengio.network_nats(network, words, 1, n_at_once=n) for n in (100, 7))
    np.testing.assert_allclose(whole, parts, rtol=1e-5)


def test_codes_are_as_long_as_the_scores_say(tmp_path):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(prose(40, i))
    found = coding.run([str(tmp_path)], 2.0, 1200, ("trigram", "backoff", "train"))
    assert set(found["models"]) == {"Interpolated trigram", "Stupid backoff"} and "wants" in found["left_out"]["train"]
    for row in found["models"].values():
        assert row["same bytes"] and max(abs(row["overhead"]), abs(row["over_promise"])) < 0.01
    assert found["peers"]["gzip -9"] < 8
    with pytest.raises(UsageError, match=r"bytes, not 1,000,000"):
        coding.run([str(tmp_path)], 2.0, 1_000_000, ("trigram",))
