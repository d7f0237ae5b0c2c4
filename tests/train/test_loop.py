"""The loop: to the last step, past steps that are not finite, and out safely when asked."""

import math
import os
import signal

import pytest
import torch

from groundup.optim import Schedule
from groundup.train.agenda import Agenda
from groundup.train.loop import MOST_SKIPS, Callbacks, Interrupted, NotFinite, StopSignal, train
from groundup.train.step import StepConfig

SETTINGS = StepConfig(12, 4, Schedule("constant"))


def weights(state) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


def spoil(state, steps: set[int]):
    """The model's loss, not a number at some steps."""

    def loss_fn(*args, **options):
        loss, nats = state.model.loss(*args, **options)
        return loss * (math.nan if state.step in steps else 1), nats

    return loss_fn


def test_it_ends_after_the_last_step_and_passes_every_look(new_state, new_batch):
    steps, looks = [], []
    callbacks = Callbacks(on_step=lambda s, m, seconds: steps.append(s.step), on_look=lambda s: looks.append(s.step))
    state = train(new_state(), new_batch, SETTINGS, callbacks, agenda=Agenda(SETTINGS.n_steps, (3, 12)))
    assert state.step == 12 and steps == list(range(1, 13)) and looks == [3, 12]


def test_it_goes_on_from_where_the_state_stands(new_state, new_batch):
    whole = train(new_state(), new_batch, SETTINGS, Callbacks())
    begun = new_state()
    with pytest.raises(Interrupted), StopSignal() as stop:
        train(begun, new_batch, SETTINGS, Callbacks(on_step=lambda s, *_: s.step == 5 and os.kill(os.getpid(), signal.SIGTERM)), stop=stop)
    assert begun.step == 5
    resumed = train(begun, new_batch, SETTINGS, Callbacks())
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))


def test_a_few_bad_steps_are_dropped_and_told(new_state, new_batch):
    state, dropped, steps = new_state(), [], []
    callbacks = Callbacks(on_step=lambda s, *_: steps.append(s.step), on_skip=lambda s, m: dropped.append(s.step))
    train(state, new_batch, SETTINGS, callbacks, loss_fn=spoil(state, {2, 3, 4, 5, 9}))
    assert dropped == [3, 4, 5, 6, 10] and len(steps) == 7 and state.step == 12


def test_after_too_many_in_a_row_it_stops_with_the_last_good_weights_saved(new_state, new_batch):
    state, good, saved = new_state(), {}, []
    callbacks = Callbacks(on_step=lambda s, *_: good.update(weights(s)), save=lambda s: saved.append(weights(s)))
    with pytest.raises(NotFinite, match=rf"step {3 + MOST_SKIPS}: loss .* the weights of step 3 are kept: lower the learning rate"):
        train(state, new_batch, SETTINGS, callbacks, loss_fn=spoil(state, set(range(3, 12))))
    assert len(saved) == 1
    assert all(torch.equal(good[name], p) for name, p in saved[0].items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(new_state, new_batch, number):
    saved = []
    callbacks = Callbacks(on_step=lambda s, *_: s.step == 4 and os.kill(os.getpid(), number), save=lambda s: saved.append(s.step))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 4"), StopSignal() as stop:
        train(new_state(), new_batch, SETTINGS, callbacks, stop=stop)
    assert saved == [4] and signal.getsignal(number) is before


def test_a_second_signal_ends_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignal():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_saving_after_no_seconds_is_saving_after_each_step(new_state, new_batch):
    saved = []
    train(new_state(), new_batch, SETTINGS, Callbacks(save=lambda s: saved.append(s.step)), save_every_s=0)
    assert saved == list(range(1, 13))


def test_a_look_may_change_how_long_the_run_is(new_state, new_batch):
    looks, scales = [], []

    def look(state):
        looks.append(state.step)
        return Agenda(8, (6, 8)) if state.step == 2 else None

    callbacks = Callbacks(on_step=lambda s, m, seconds: scales.append(m.lr_scale), on_look=look)
    settings = StepConfig(12, 4, Schedule("wsd", decay_fraction=0.5))
    state = train(new_state(), new_batch, settings, callbacks, agenda=Agenda(12, (2, 12)))
    assert state.step == 8 and looks == [2, 6, 8]
    assert scales == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
