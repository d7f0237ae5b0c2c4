"""The peers are what their authors describe, learn, and are all scored alike."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from benchmarks.peers import PEERS, counts, load_peer, nanochat, nanogpt
from benchmarks.peers.common import TrainedNetwork, random_windows, train_within
from benchmarks.peers.muon import Muon, orthogonalize
from benchmarks.peers.scoring import bits_per_byte
from groundup.data import Document, TokenStore, write_shards
from groundup.errors import GroundupError, UsageError

V = 60
SMALL = {
    "nanogpt": nanogpt.Settings(n_layers=2, width=32, head_dim=16, seq_len=16, batch_size=4),
    "nanochat": nanochat.Settings(n_layers=3, width=32, head_dim=16, seq_len=16, batch_size=4),
    "counts": counts.Settings(seq_len=16),
}
NETWORKS = {"nanogpt": nanogpt.NanoGPT, "nanochat": nanochat.NanoChat}


@pytest.fixture
def store(tmp_path) -> TokenStore:
    """Three documents; token 0 opens each and stands for no bytes, every other token for two."""
    documents = []
    for i, length in enumerate((5, 40, 23)):
        ids = np.random.default_rng(i).integers(1, V, length)
        documents.append((Document(str(i), b"xx" * length), np.concatenate(([0], ids))))
    write_shards(documents, tmp_path / "tokens", vocab_size=V, tokenizer_hash="none")
    return TokenStore.open(tmp_path / "tokens")


TOKEN_BYTES = np.array([0] + [2] * (V - 1))


class Uniform:
    """Knows nothing: log V nats a target."""

    steps = parameters = 0

    def nats(self, tokens, targets):
        return np.where(targets >= 0, math.log(V), 0.0)


def test_knowing_nothing_costs_the_logarithm_of_the_vocabulary_a_token(store):
    assert bits_per_byte(Uniform(), store, 16, TOKEN_BYTES) == pytest.approx(math.log2(V) / 2)


def test_bytes_that_do_not_add_up_are_refused(store):
    with pytest.raises(GroundupError, match="do not belong together"):
        bits_per_byte(Uniform(), store, 16, TOKEN_BYTES + 1)


def test_a_model_that_diverged_has_no_finite_score(store):
    class Broken(Uniform):
        def nats(self, tokens, targets):
            return np.full(targets.shape, np.nan)

    assert bits_per_byte(Broken(), store, 16, TOKEN_BYTES) == math.inf


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_trains_and_is_scored_on_every_byte(name, store):
    peer = load_peer(name)
    trained = peer.train_for(0.05, store.slice(0, store.n_tokens), V, seed=0, settings=SMALL[name])
    assert trained.steps >= 1 and trained.parameters > 0
    assert 0 < bits_per_byte(trained, store, 16, TOKEN_BYTES) < 2 * math.log2(V)


@pytest.mark.parametrize("name", PEERS)
def test_a_sweep_begins_on_the_ladders(name):
    peer = load_peer(name)
    defaults = dataclasses.asdict(peer.Settings())
    assert all(defaults[setting] in ladder for setting, ladder in peer.LADDERS.items())
    for width in peer.LADDERS.get("width", ()):
        assert width % defaults["head_dim"] == 0


def test_an_unknown_peer_is_named():
    with pytest.raises(UsageError, match="'gpt5' is not known"):
        load_peer("gpt5")


@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_sees_what_comes_later(name):
    torch.manual_seed(0)
    model = NETWORKS[name](SMALL[name], V)
    for p in model.parameters():  # output projections and gates of nanochat begin at zero
        torch.nn.init.normal_(p, std=0.2)
    tokens = torch.randint(V, (2, 12))
    changed = tokens.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % V
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert (before[:, 8:] != after[:, 8:]).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_knows_nothing_guesses_evenly(name):
    model = NETWORKS[name](SMALL[name], V)
    tokens = np.random.default_rng(0).integers(V, size=(2, 17))
    nats = TrainedNetwork(model, 0).nats(tokens[:, :-1].copy(), tokens[:, 1:].copy())
    assert nats.mean() == pytest.approx(math.log(V), abs=0.15)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_learns_a_pattern(name, monkeypatch):
    peer, settings = load_peer(name), dataclasses.replace(SMALL[name], n_layers=2)

    def hundred_steps(seconds, step):
        for i in range(100):
            step(i / 100, i)
        return 100

    monkeypatch.setattr(peer, "train_within", hundred_steps)
    tokens = np.arange(2000) % 7
    trained = peer.train_for(1.0, tokens, 7, seed=0, settings=settings)
    nats = trained.nats(tokens[None, :16].copy(), tokens[None, 1:17].copy())
    assert nats[0, 1:].mean() < 0.3 < math.log(7)


def test_nanogpt_is_gpt2_as_transformers_has_it():
    """Same weights, same logits: the oracle is another implementation of GPT-2."""
    from transformers import GPT2Config, GPT2LMHeadModel

    s = SMALL["nanogpt"]
    torch.manual_seed(0)
    ours = nanogpt.NanoGPT(s, V)
    theirs = GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_positions=s.seq_len, n_embd=s.width, n_layer=2, n_head=2, activation_function="gelu")
    ).eval()
    names = {"attention_norm": "ln_1", "qkv": "attn.c_attn", "attention_out": "attn.c_proj", "mlp_norm": "ln_2", "up": "mlp.c_fc"}
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name.endswith("bias"):
                p.zero_()
        theirs.transformer.wte.weight.copy_(ours.tokens.weight)
        theirs.transformer.wpe.weight.copy_(ours.positions.weight)
        theirs.transformer.ln_f.weight.copy_(ours.norm.weight)
        for mine, other in zip(ours.blocks, theirs.transformer.h, strict=True):
            for a, b in (names | {"mlp_out": "mlp.c_proj"}).items():
                weight = mine.get_submodule(a).weight
                other.get_submodule(b).weight.copy_(weight.T if weight.ndim == 2 else weight)  # theirs are [in, out]
        tokens = torch.randint(V, (2, s.seq_len))
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-5)


def test_learning_rates_rise_and_come_down():
    s = SMALL["nanogpt"]
    assert nanogpt.learning_rate(s.warmup, s) == pytest.approx(s.learning_rate)
    assert nanogpt.learning_rate(1.0, s) == pytest.approx(s.final * s.learning_rate)
    assert nanochat.rate_factor(0.2, 40) == 1.0
    assert nanochat.rate_factor(1.0, 1000) == pytest.approx(0.05)
    assert nanochat.momentum(0.1, 0) == pytest.approx(0.85) and nanochat.momentum(1.0, 1000) == pytest.approx(0.90)


@pytest.mark.parametrize("shape", [(3, 24, 8), (3, 8, 24), (1, 16, 16)])
def test_muons_update_is_nearly_orthogonal(shape):
    singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert ((singular > 0.6) & (singular < 1.3)).all()


def test_muon_descends():
    target = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.zeros(8, 4))
    muon = Muon([weight])
    for i in range(200):
        weight.grad = weight.detach() - target
        muon.step(0.05 * (1 - i / 200), 0.9, 0.0)
    assert (weight.detach() - target).norm() < 0.2 * target.norm()


@pytest.mark.parametrize("continuation", [True, False])
def test_counts_sum_to_one_after_any_context(continuation):
    random = np.random.default_rng(0)
    tokens = random.integers(6, size=300) * random.integers(2, size=300)  # some tokens often, some never
    model = counts.NgramCounts(tokens, 7, counts.Settings(continuation=continuation))
    row = random.integers(7, size=(1, 5))
    targets = np.full((7, 5), -1)
    targets[:, -1] = np.arange(7)
    nats = model.nats(np.repeat(row, 7, axis=0), targets)
    assert np.exp(-nats[:, -1]).sum() == pytest.approx(1)
    assert (nats[:, :-1] == 0).all()


def test_counts_of_one_token_are_discounted_frequencies():
    """aaab: n1 = 1, n2 = 0, so D = 1; p(a) = (3 - 1) / 4 + 1 * 2 / 4 / V."""
    model = counts.NgramCounts(np.array([0, 0, 0, 1]), 3, counts.Settings(order=1))
    nats = model.nats(np.array([[2, 2, 2]]), np.array([[0, 1, 2]]))
    assert np.exp(-nats) == pytest.approx(np.array([[2 / 4 + 1 / 6, 1 / 6, 1 / 6]]))


def test_counts_use_the_context():
    model = counts.NgramCounts(np.tile([1, 2, 3, 4, 2, 5], 50), 8, counts.Settings(continuation=False))
    nats = model.nats(np.array([[1, 2], [4, 2]]), np.array([[2, 3], [2, 5]]))
    assert (nats[:, 1] < 0.1).all()


def test_too_long_ngrams_are_refused():
    with pytest.raises(UsageError, match="does not fit 64 bits"):
        counts.NgramCounts(np.arange(10), 4096, counts.Settings(order=6))


def test_windows_are_pieces_of_the_stream():
    x, y = random_windows(np.arange(50), 8, 10, np.random.default_rng(0))
    assert x.shape == y.shape == (8, 10)
    assert (x[:, 1:] == y[:, :-1]).all() and (y == x + 1).all()


def test_training_ends_on_time_and_progress_begins_after_the_first_step(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("benchmarks.peers.common.time.monotonic", lambda: clock[0])
    seen = []

    def step(progress, i):
        seen.append(progress)
        clock[0] += 20.0 if i == 0 else 1.0  # the first compiles

    assert train_within(60, step) == 41
    assert seen[:2] == [0.0, 0.0] and seen[-1] == pytest.approx(39 / 40)
    assert clock[0] == 60
