"""Tasks: prompts as the papers have them, right and wrong by hand-made models, errors that name the line, runs that go on."""

import json
import math

import numpy as np
import pytest
from protocol_models import TEXT, Bigram

from groundup.errors import UsageError
from groundup.evaluate import harness, tasks
from groundup.evaluate.core import CORE, centered, core_score
from groundup.evaluate.harness import compare, run_task, split
from groundup.evaluate.statistics import mean_of, paired, ratio_of

MODEL = Bigram(TEXT.encode())


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_minimal_pairs_are_right_where_the_whole_sentence_is_likelier(tmp_path):
    (tmp_path / "blimp").mkdir()
    pairs = [("the cat sat", "the cat zzz"), ("the dog saw", "qqq dog saw"), ("xxx", "the")]
    write(tmp_path / "blimp" / "p.jsonl", *({"sentence_good": a, "sentence_bad": b} for a, b in pairs))
    result = run_task(MODEL, tasks.blimp(tmp_path))
    assert [a.right["raw"] for a in result.answers] == [1, 1, 0]
    assert result.accuracy["raw"] == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert result.by_group()["p"] == result.accuracy["raw"] and result.centered == pytest.approx(1 / 3)
    tokens = np.concatenate(([256], MODEL.encode("the cat sat")))
    assert result.answers[0].bits == pytest.approx(-np.log2(MODEL.table[tokens[:-1], tokens[1:]]).sum())
    (wrong,) = result.samples(right=False)
    assert wrong[0].continuations[0] == "xxx"


def test_normalizations_are_the_sums_over_their_units(tmp_path):
    path = write(tmp_path / "x.jsonl", {"query": "the", "choices": ["cat", "dog saw the caf\u00e9"], "gold": 1})
    task = tasks.choices("x", path)
    result = run_task(MODEL, task)
    (item,) = task.items
    nats = [MODEL.log_probs(*[[part] for part in split(MODEL, "the", words)])[0].sum() for words in item.continuations]
    alone = [MODEL.log_probs(*[[part] for part in split(MODEL, "Answer:", words)])[0].sum() for words in item.continuations]
    expected = {
        "raw": np.argmax(nats),
        "characters": np.argmax([nats[0] / 3, nats[1] / 16]),  # as lm-evaluation-harness: without the space before an answer
        "bytes": np.argmax([nats[0] / 3, nats[1] / 17]),
        "tokens": np.argmax([nats[0] / 4, nats[1] / 18]),
        "unconditional": np.argmax(np.subtract(nats, alone)),
    }
    assert result.answers[0].right == {name: float(at == 1) for name, at in expected.items()}
    assert result.answers[0].bits == pytest.approx(-nats[1] / math.log(2)) and result.answers[0].n_bytes == 18


def test_prompts_of_each_form(tmp_path):
    records = [{"query": f"Q{i}?", "choices": ["yes", "no"], "gold": i % 2} for i in range(3)]
    path = write(tmp_path / "x.jsonl", *records)
    item = tasks.choices("x", path, n_shots=2, delimiter="\nAnswer: ").items[0]
    assert sorted(item.contexts[0].split("\n\n")) == ["Q0?\nAnswer:", "Q1?\nAnswer: no", "Q2?\nAnswer: yes"]
    assert item.continuations == (" yes", " no") and item.contexts[0].endswith("Q0?\nAnswer:")
    letters = tasks.choices("x", path, form="letters").items[1]
    assert letters.contexts[0] == "Q1?\nA. yes\nB. no\nAnswer:" and letters.continuations == (" A", " B")
    path = write(tmp_path / "s.jsonl", {"context_options": ["the cat", "the dog"], "continuation": "sat.", "gold": 0})
    schema = tasks.schema("s", path).items[0]
    assert schema.contexts == ("the cat", "the dog") and schema.continuations == (" sat.", " sat.")
    path = write(tmp_path / "lambada_openai.jsonl", {"context": "the cat sat on the ", "continuation": "mat"})
    words = tasks.lambada(tmp_path).items[0]
    assert (words.context, words.words) == ("the cat sat on the", " mat")


def test_last_words_are_right_where_the_model_would_write_them(tmp_path):
    path = write(tmp_path / "w.jsonl", {"context": "the", "continuation": "cat"}, {"context": "the", "continuation": "dog"})
    result = run_task(Bigram(b"the cat\nthe cat\nthe dog\n"), tasks.last_words("w", path))
    assert [a.right["exact"] for a in result.answers] == [1, 0] and result.main == "exact"
    knows_nothing = Bigram(b"")  # of equally likely tokens greedy writing takes the first, not each
    assert [a.right["exact"] for a in run_task(knows_nothing, tasks.last_words("w", path)).answers] == [0, 0]


class Writer(Bigram):
    """Writes what it was told to."""

    def __init__(self, *texts):
        super().__init__(b"")
        self.texts = texts

    def sample(self, prompts, *, max_tokens, temperature=1.0, seed=0, stop=()):
        return [self.texts[i % len(self.texts)].encode() for i in range(len(prompts))]


def test_numbers_and_programs_are_checked(tmp_path):
    write(tmp_path / "gsm8k_train.jsonl", {"question": "1+1?", "answer": "It is 2.\n#### 2"})
    write(tmp_path / "gsm8k_test.jsonl", *({"question": f"{i}?", "answer": "so\n#### 1,234"} for i in range(4)))
    writer = Writer(" it is 1,234", " 17 then\n#### 1234", " 1,234 or 5", " no idea")
    assert [a.right["exact"] for a in run_task(writer, tasks.gsm8k(tmp_path)).answers] == [1, 1, 0, 0]
    program = {
        "prompt": "def f(x):\n",
        "test": "def check(g):\n    assert g(1) == 2\n",
        "entry_point": "f",
        "canonical_solution": "    return x + 1\n",
    }
    write(tmp_path / "HumanEval.jsonl", program, program, program)
    writer = Writer("    return x + 1\n", "    return x\n", "    import os; os._exit(0)\n")
    assert [a.right["exact"] for a in run_task(writer, tasks.human_eval(tmp_path)).answers] == [1, 0, 0]
    problem = {"text": "Add one.", "code": "def g(x):\r\n  return x + 1", "test_setup_code": "", "test_list": ["assert g(1) == 2"]}
    write(tmp_path / "mbpp.jsonl", *(problem | {"task_id": i} for i in (2, 3, 4, 11, 511)))
    task = tasks.mbpp(tmp_path)
    assert len(task.items) == 1 and task.items[0].prompt.count("[DONE]") == 3
    assert run_task(Writer("def g(x): return x + 1\n"), task).accuracy["exact"].mean == 1


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": "a", "gold": 0}, r"x\.jsonl line 2 has no field 'choices': it has gold, query"),
        ({"query": 3, "choices": ["a"], "gold": 0}, "line 2: field 'query' holds int, not text"),
        ({"query": "a", "choices": ["a"], "gold": 1}, "line 2: field 'gold' is 1, but there are 1 choices"),
        ({"query": "a", "choices": [], "gold": 0}, "line 2: field 'choices' must hold texts"),
        ({"query": "a", "choices": ["a"], "gold": True}, "field 'gold' holds bool, not a whole number"),
    ],
)
def test_missing_fields_name_file_line_and_field(tmp_path, record, message):
    path = write(tmp_path / "x.jsonl", {"query": "a", "choices": ["a"], "gold": 0}, record)
    with pytest.raises(UsageError, match=message):
        tasks.choices("x", path)


def test_files_that_are_not_there_or_no_records(tmp_path):
    with pytest.raises(UsageError, match=r"no HumanEval\.jsonl"):
        tasks.human_eval(tmp_path)
    with pytest.raises(UsageError, match=r"no \.jsonl files"):
        tasks.blimp(tmp_path)
    write(tmp_path / "mbpp.jsonl", {"task_id": 2, "text": "t", "code": "c", "test_list": ["x"]})
    with pytest.raises(UsageError, match="mbpp: there is no item to ask"):
        tasks.mbpp(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"query": "a"')
    with pytest.raises(UsageError, match="line 1 is not JSON"):
        tasks.choices("x", tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(UsageError, match="holds no records"):
        tasks.choices("x", tmp_path / "x.jsonl")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        tasks.choices("x", tmp_path / "x.parquet")


def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "ITEMS_AT_ONCE", 2)
    path = write(tmp_path / "x.jsonl", *({"query": f"the {i}", "choices": ["cat", "dog"], "gold": 0} for i in range(5)))
    task, kept = tasks.choices("x", path), tmp_path / "out" / "x.jsonl"
    whole = run_task(MODEL, task, kept=kept)
    lines = kept.read_text().split("\n")
    kept.write_text("\n".join(lines[:4]) + '\n{"right": {"ra')  # killed while it wrote the fourth answer
    asked = []
    monkeypatch.setattr(harness, "_ask", lambda *given, ask=harness._ask: asked.append(len(given[2])) or ask(*given))
    assert run_task(MODEL, task, kept=kept).answers == whole.answers and asked == [2]
    assert kept.read_text().split("\n") == lines
    with pytest.raises(UsageError, match=r"is of model 'bigram'"):
        run_task(Bigram(b"x", name="other"), task, kept=kept)


def test_two_models_are_compared_item_by_item(tmp_path):
    path = write(tmp_path / "x.jsonl", *({"query": "the", "choices": ["cat", "xyz"], "gold": i % 2} for i in range(6)))
    a, b = (run_task(m, tasks.choices("x", path)) for m in (MODEL, Bigram(b"xyz " * 50)))
    rng = np.random.default_rng(0)
    accuracy, bits = compare(a, b)
    assert accuracy.mean == a.accuracy["raw"].mean - b.accuracy["raw"].mean
    assert bits.mean == pytest.approx(a.bits_per_byte.mean - b.bits_per_byte.mean)
    assert compare(a, a) == ((0, 0), (0, 0))
    x, y = rng.normal(3, 1, 200), rng.uniform(1, 9, 200)
    again = [ratio_of(x[i], y[i]).mean for i in rng.integers(200, size=(2000, 200))]  # the bootstrap's error is the oracle
    assert ratio_of(x, y).error == pytest.approx(np.std(again), rel=0.1)
    x, noise = rng.normal(size=400), rng.normal(size=400) * 0.1
    assert paired(x + noise, x).error < mean_of(x).error / 5


def test_core_takes_all_tasks_and_its_versions_differ_by_their_baselines():
    assert len(CORE) == 22 and centered(0.25, 0.25) == 0 and centered(1, 0.62) == 1
    guessing = {name: t.baseline for name, t in CORE.items()}
    assert core_score(guessing) == 0
    assert core_score(guessing, "v1") == pytest.approx(((0.403 - 0.2) / 0.8 + 0.05 / 0.8 + (0.25 - 0.091) / 0.909) / 22)
    del guessing["coqa"]
    with pytest.raises(UsageError, match="1 are missing: coqa"):
        core_score(guessing)


def test_a_long_context_loses_its_beginning(tmp_path):
    model = Bigram(TEXT.encode())
    model.context_length = 10
    context, words = split(model, TEXT[:50], " cat")
    assert len(context) + len(words) - 1 == 10 and bytes(words.tolist()) == b" cat"
    with pytest.raises(UsageError, match="reads 10 tokens at once, and an answer has 20"):
        split(model, "a", "b" * 20)
