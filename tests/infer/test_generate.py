"""Generation equals the slow definition: a full forward pass over the text so far, for every token."""

import itertools

import numpy as np
import pytest
import torch

from groundup.config import HashEmbedding
from groundup.errors import UsageError
from groundup.infer.generate import Reader, generate, generate_batch, mixture
from groundup.model.functional import mixture_nll_reference


class FakePrior:
    """Two experts: the uniform one, and one that gives nine tenths to the token after the last; the features say where we are."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def start(self):
        return FakeCursor(self.vocab_size)


class FakeCursor:
    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.tokens = vocab_size, []

    def push(self, token: int) -> None:
        self.tokens.append(token)

    def distribution(self) -> tuple[np.ndarray, np.ndarray]:
        p = np.full((2, self.vocab_size), 1 / self.vocab_size, dtype=np.float32)
        p[1] = 0.1 / (self.vocab_size - 1)
        p[1, (self.tokens[-1] + 1) % self.vocab_size] = 0.9
        return p, np.array([len(self.tokens) / 10, self.tokens[-1] / 10, 1], dtype=np.float32)


def greedy(model, prompt, n):
    """n tokens by full forward passes, with the documented window on the text."""
    limit, half = model.config.context_length, max(1, model.config.context_length // 2)
    seen = list(prompt) if len(prompt) <= limit else list(prompt)[-half:]
    out = []
    for _ in range(n):
        if len(seen) > limit:
            seen = seen[-half:]
        with torch.no_grad():
            out.append(int(model(torch.tensor([seen]))[0, -1].argmax()))
        seen.append(out[-1])
    return out


@pytest.mark.parametrize("context_length", [1, 2, 7, 8, 64])
@pytest.mark.parametrize("prompt_length", [1, 7, 8, 9, 30])
def test_greedy_equals_full_forward_passes_over_any_context(tiny, context_length, prompt_length):
    model = tiny(context_length=context_length, hash_embedding=HashEmbedding((2, 3), 256))
    prompt = np.random.default_rng(prompt_length).integers(0, 40, prompt_length)
    assert list(generate(model, prompt, max_tokens=25, temperature=0.0)) == greedy(model, prompt, 25)


def test_the_seed_decides_and_tokens_come_one_by_one(tiny):
    model = tiny()
    first, again, other = (list(generate(model, [1, 2], max_tokens=30, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other
    endless = generate(model, [1, 2], max_tokens=10**12, seed=5)
    assert list(itertools.islice(endless, 30)) == first


def test_generation_ends_before_a_stop_token(tiny):
    model = tiny()
    free = list(generate(model, [1, 2], max_tokens=30, seed=5))
    stop = free[10]
    assert list(generate(model, [1, 2], max_tokens=30, seed=5, stop_ids={stop})) == free[: free.index(stop)]
    assert list(generate(model, [1, 2], max_tokens=0)) == []


def test_tokens_beyond_the_tokenizers_are_never_drawn(tiny):
    drawn = list(generate(tiny(), [1, 2], max_tokens=200, temperature=5.0, seed=0, vocab_size=7))
    assert set(drawn) == set(range(7))


@pytest.mark.parametrize("with_prior", [False, True])
def test_a_batch_gives_what_each_prompt_gives_alone(tiny, with_prior):
    model = tiny(context_length=16, prior_shape=(2, 3) if with_prior else None)
    prior = FakePrior(40) if with_prior else None
    prompts = [[1], [2, 3, 4, 5, 6, 7], list(range(30)), [8, 9]]
    settings = {"max_tokens": 20, "temperature": 0.9, "top_k": 20, "top_p": 0.95, "prior": prior}
    settings["stop_ids"] = {generate_batch(model, prompts, seed=3, **settings)[0][5]}
    together = generate_batch(model, prompts, seed=3, **settings)
    assert together == [list(generate(model, prompt, seed=3 + i, **settings)) for i, prompt in enumerate(prompts)]
    assert len(together[0]) <= 5
    assert generate_batch(model, [], max_tokens=3) == []
    assert generate_batch(model, [[1], [2, 3]], max_tokens=0) == [[], []]


def test_the_prior_is_mixed_in_by_the_gate(tiny):
    model, prior, prompt = tiny(prior_shape=(2, 3)), FakePrior(40), [4, 8, 15]
    cursor = prior.start()
    for token in prompt:
        cursor.push(token)
    experts, features = map(torch.from_numpy, cursor.distribution())
    with torch.no_grad():
        hidden = model.hidden(torch.tensor([prompt]))[:, -1]
        gates = torch.softmax(model.gate(hidden, features[None]), -1)[0]
        expected = gates[0] * torch.softmax(model.logits(hidden)[0], -1) + gates[1] * experts[0] + gates[2] * experts[1]
    found = Reader(model, 1, prior).read(np.array([prompt])).exp()[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(), torch.tensor(1.0))


def test_the_mixture_is_the_one_the_loss_scores():
    g = torch.Generator().manual_seed(0)
    logits, gates = torch.randn(5, 9, generator=g), torch.randn(5, 3, generator=g)
    experts = torch.softmax(torch.randn(5, 2, 9, generator=g), -1)
    targets = torch.randint(0, 9, (5,), generator=g)
    log_p = experts.log().gather(2, targets[:, None, None].expand(5, 2, 1))[..., 0]
    found = -mixture(gates, logits, experts).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, mixture_nll_reference(logits, targets, gates, log_p))


def test_with_a_prior_the_cursor_sees_every_token_once(tiny):
    model, cursors = tiny(context_length=8, prior_shape=(2, 3)), []

    class Recorded(FakePrior):
        def start(self):
            cursors.append(super().start())
            return cursors[-1]

    prompts = [[1, 2, 3], list(range(20))]  # the second does not fit the network
    texts = generate_batch(model, prompts, max_tokens=30, prior=Recorded(40))
    for cursor, prompt, text in zip(cursors, prompts, texts, strict=True):
        assert cursor.tokens[: len(prompt) + 29] == [*prompt, *text[:29]]


@pytest.mark.parametrize(
    ("prompt", "settings", "says"),
    [
        ([], {}, "no tokens"),
        ([40], {}, "ids 40 to 40"),
        ([-1], {}, "ids -1"),
        ([1], {"temperature": -0.5}, "temperature"),
        ([1], {"max_tokens": -1}, "max_tokens"),
        ([1], {"vocab_size": 41}, "vocab_size"),
        ([1], {"prior": FakePrior(40)}, "no gate"),
    ],
)
def test_what_makes_no_sense_is_said_before_the_first_token(tiny, prompt, settings, says):
    with pytest.raises(UsageError, match=says):
        generate(tiny(), prompt, **{"max_tokens": 3, **settings})
