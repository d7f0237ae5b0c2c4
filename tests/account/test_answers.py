"""The planner's questions: what it picks is best among what it shows, and hangs together with cost, law and plan."""

import math

import pytest

from groundup.account import cost, find_device, parse_budget
from groundup.account.answers import MOST_EPOCHS, best_model, how_to_train, largest_model, serve, worth
from groundup.account.cluster import Cluster, holds, network_of
from groundup.account.inference import Inference, Serving
from groundup.account.known import known_model
from groundup.account.law import CHINCHILLA, EPOCH, SMALL_SCALE
from groundup.account.published import PUBLISHED_RUNS
from groundup.account.spread import Counted
from groundup.account.workload import Training
from groundup.errors import UsageError


def h100(devices):
    return Cluster(find_device("h100"), devices, network_of("h100", find_device("h100")))


def law_parameters(config):
    """N of the laws: without lookup tables, but with the head."""
    return cost(config, Training(1)).parameters_non_embedding + config.vocab_size * config.d_model


@pytest.fixture(scope="module")
def three_days():
    return best_model(parse_budget("3d"), h100(8), law=EPOCH)


def test_the_best_model_has_the_lowest_loss_of_all_shapes_and_fills_the_budget(three_days):
    assert three_days.loss <= min(shape.loss for shape in three_days.shapes) + 0.001
    run = three_days.fit.training
    assert 0.85 * 3 * 86_400 < run.seconds <= 3 * 86_400
    assert run.usd == pytest.approx(8 * 2.95 * run.seconds / 3600)
    assert run.flops == pytest.approx(cost(three_days.plan.model, Training(three_days.plan.seq_len)).flops_training(three_days.plan.tokens))
    assert three_days.fit.steps[0].fits and math.isinf(three_days.unique_tokens)


@pytest.mark.parametrize("seconds", [180, 7200])
def test_text_that_is_ready_takes_none_of_the_budget(seconds):
    """All but the planner's reserve of 2 seconds and 8 % is for training, and steps are whole."""
    best = best_model(parse_budget(f"{seconds}s"), h100(1), law=EPOCH, mfu=0.4)
    assert best.fit.training.seconds == pytest.approx(0.92 * seconds - 2, rel=0.01)


def test_the_best_model_is_near_the_laws_optimum(three_days):
    """Widths are steps of a fifth and more, and attention's pairs are no part of 6 N D."""
    n, d = EPOCH.optimal(three_days.plan.flops)
    assert 0.6 < law_parameters(three_days.plan.model) / n < 1.6 and 0.6 < three_days.plan.tokens / d < 1.6
    assert three_days.by_law["chinchilla"] == CHINCHILLA.optimal(three_days.plan.flops)


def test_a_budget_in_flops_is_spent_on_training_alone():
    best = best_model(parse_budget("1e20flop"), h100(1), law=EPOCH, mfu=0.3)
    assert best.plan.flops == pytest.approx(1e20, rel=0.01) and best.fit.training.mfu == 0.3
    assert best.fit.training.seconds == pytest.approx(best.plan.flops / (0.3 * 989.4e12))


def test_money_buys_what_its_time_buys():
    money = best_model(parse_budget("1000usd"), h100(8), law=EPOCH, mfu=0.4)
    time = best_model(parse_budget(f"{1000 / (8 * 2.95) * 3600}s"), h100(8), law=EPOCH, mfu=0.4)
    assert money.plan.model == time.plan.model and money.plan.tokens == pytest.approx(time.plan.tokens, rel=1e-3)


def test_little_text_is_repeated_but_not_for_ever_and_costs_loss():
    plenty = best_model(parse_budget("1d"), h100(8), law=EPOCH, mfu=0.4)
    little = best_model(parse_budget("1d"), h100(8), law=EPOCH, mfu=0.4, text_bytes=5e9)
    assert little.loss > plenty.loss and little.plan.tokens / little.unique_tokens <= MOST_EPOCHS * 1.01
    assert little.loss == EPOCH.loss(law_parameters(little.plan.model), little.plan.tokens, little.unique_tokens)


def test_another_law_takes_another_model():
    rounded = best_model(parse_budget("3d"), h100(8), law=CHINCHILLA, mfu=0.4)
    refit = best_model(parse_budget("3d"), h100(8), law=EPOCH, mfu=0.4)
    assert law_parameters(rounded.plan.model) < law_parameters(refit.plan.model)


def test_a_given_run_takes_its_flops_over_the_utilization():
    """The known answer's arithmetic, on a model that exists: 405B parameters, 15.6T tokens, 16,384 devices."""
    config = known_model("llama-3.1-405b")
    fit = how_to_train(config, h100(16_384), seq_len=8192, tokens=15.6e12, batch_tokens=16e6, mfu=0.41)
    assert fit.training.seconds == pytest.approx(fit.training.flops / (0.41 * 16_384 * 989.4e12))
    published = PUBLISHED_RUNS["llama-3.1-405b"]
    assert fit.training.flops == pytest.approx(published.flops, rel=0.1)
    assert 0.7 < fit.training.seconds / 86_400 / published.days < 1.1, "hours of the card include what did not train"


def test_a_budget_for_a_given_model_says_how_many_tokens():
    config = known_model("smollm2-135m")
    fit = how_to_train(config, h100(1), seq_len=2048, budget=parse_budget("1d"), mfu=0.4)
    assert fit.training.seconds == pytest.approx(86_400) and fit.training.usd == pytest.approx(24 * 2.95)
    with pytest.raises(UsageError, match="less than one step"):
        how_to_train(config, h100(1), seq_len=2048, budget=parse_budget("1e9flop"))


def test_tokens_are_twenty_a_parameter_unless_given():
    config = known_model("smollm2-135m")
    assert how_to_train(config, h100(1), seq_len=2048).training.tokens == 20 * 134_515_008


def test_the_answer_is_the_best_of_what_was_tried():
    fit = how_to_train(known_model("llama-3.1-8b"), h100(8), seq_len=4096)
    tried = [step for step in fit.tried() if step.fits]
    assert len(tried) > len(fit.steps) and max(step.mfu for step in tried) == pytest.approx(fit.steps[0].mfu, rel=1e-3)


def test_the_largest_model_fits_and_the_next_does_not():
    sizes, fit = largest_model(h100(1), seq_len=2048)
    best = next(i for i, size in enumerate(sizes) if size.config == fit.config)
    assert sizes[best].fits and not any(size.fits for size in sizes[best + 1 :]) and sizes[best + 1 :]
    assert holds(Counted(fit.config, 2048), h100(1)) and fit.steps[0].fits
    assert largest_model(h100(8), seq_len=2048)[1].cost.parameters > 4 * fit.cost.parameters


def test_more_context_leaves_room_for_fewer_sequences():
    capacity = serve(known_model("llama-3.1-8b"), h100(1))
    batches = [serving.requests.batch_size for serving in capacity.serving]
    assert batches == sorted(batches, reverse=True) and capacity.serving[-1].requests.length == 131_072
    for serving in capacity.serving:
        assert serving.memory_bytes <= h100(1).memory_limit
        more = Serving(serving.config, Inference(serving.requests.length - 1, 1, serving.requests.batch_size + 1), serving.device)
        assert more.memory_bytes > h100(1).memory_limit
    assert capacity.longest_context * 131_072 <= h100(1).memory_limit - capacity.weights_bytes


def test_smaller_numbers_leave_room_for_more():
    config = known_model("llama-3.1-70b")
    plain, small = serve(config, h100(4)), serve(config, h100(4), weight_bytes=0.5, number_bytes=1)
    assert small.weights_bytes == plain.weights_bytes / 4 == cost(config, Training(1)).parameters / 2
    for length, serving in zip((1024, 4096), small.serving, strict=False):
        spare = int(4 * h100(4).memory_limit) - small.weights_bytes
        assert serving.requests.batch_size == spare // (length * 2 * 8 * 128 * 80)  # 8 kv heads of 128, keys and values, 80 layers


def test_several_devices_serve_what_one_cannot():
    with pytest.raises(UsageError, match="--devices 2 or more"):
        serve(known_model("llama-3.1-70b"), h100(1))
    assert serve(known_model("llama-3.1-70b"), h100(2)).longest_context > 0


def test_what_a_gain_is_worth():
    """5 % more is 1/1.05 of time and money, or 1.05 times the tokens."""
    found = worth(0.05, seconds=1050.0, usd=210.0, parameters=1e9, tokens=2e10, law=EPOCH)
    assert found.seconds == pytest.approx(50) and found.usd == pytest.approx(10)
    assert found.loss == pytest.approx(2085.4 * (2e10**-0.3659 - 2.1e10**-0.3659))
    used_up = worth(0.05, seconds=1.0, usd=1.0, parameters=1e9, tokens=2e12, law=EPOCH, unique=1e9)
    assert 0 <= used_up.loss < found.loss


def test_the_planner_of_small_runs_can_be_asked_too():
    best = best_model(parse_budget("1h"), h100(1), law=SMALL_SCALE, mfu=0.4)
    assert best.loss == SMALL_SCALE.loss(law_parameters(best.plan.model), best.plan.tokens)
