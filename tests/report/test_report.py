"""The report shows what the files say, whatever is in them or missing, and fetches nothing."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fake_run import fake_run
from matplotlib.figure import Figure

from groundup.errors import UsageError
from groundup.report import compare, list_runs, plot_runs, plots, summarize, write_report
from groundup.report.figure import SIZE, Plot
from groundup.report.run import column, number, read_run

VOID = {"meta", "br", "img", "link", "hr", "input", "path", "use"}
HOSTILE = '</pre></style></svg><script>alert("x")</script><img src=https://evil.example/x onerror=alert(1)>&amp;$x$'


class Page(HTMLParser):
    """Collects tags, attributes, ids and table rows, and checks that every tag is closed in order."""

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if "td" in self.open:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = fake_run(tmp_path_factory.mktemp("runs") / "finished", steps=120)
    write_report(run)
    return run


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plot is painted, none is rendered: rendering is most of the time, and other tests look at it."""

    def paint(name: str, title: str, painter: Any, size: tuple[float, float] = SIZE) -> Plot:
        painter(Figure(figsize=size))
        return Plot(name, title, b"\x89PNG", "<svg></svg>")

    monkeypatch.setattr(plots, "draw", paint)


def edit(run: Path, name: str, **values: Any) -> None:
    file = run / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_is_one_file_that_asks_for_nothing(finished: Path) -> None:
    page = Page(finished / "report.html")
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "xlink:href") and not name.startswith("on")
            if name == "href":
                assert value is not None and value.startswith("#")
    assert not re.search(r"https?://|@import|url\((?!#)", (finished / "report.html").read_text(encoding="utf-8"))


def test_ids_are_unique_and_every_reference_lands(finished: Path) -> None:
    tags = Page(finished / "report.html").tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    source = (finished / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'href="#([^"]+)|url\(#([^)]+)', source)) <= {pair for i in ids for pair in ((i, ""), ("", i))}


def test_predictions_and_measurements_are_the_files_numbers(finished: Path) -> None:
    page, manifest = Page(finished / "report.html"), json.loads((finished / "manifest.json").read_text())
    said, was = manifest["plan"]["predicted"], manifest["measured"]
    assert page.row("parameters") == ["parameters", f"{said['parameters']:,}", f"{was['parameters']:,}", "1.000", "✓"]
    assert page.row("time")[3:] == [f"{was['seconds'] / said['seconds']:.3f}", "✓"]
    assert page.row("peak memory") == ["peak memory", "1.31 GB", "1.50 GB", "1.146", "✗"]
    assert page.row("bits per byte") == ["bits per byte", "1.2600", "1.2346", "0.980", "✓"]
    assert page.row("batch size") == ["batch size", "32 sequences", "near the critical batch of the loss reached", "McCandlish et al. 2018"]
    assert page.row("validation bytes") == ["validation bytes", "610,000"] and page.row("n documents") == ["n documents", "1,183"]
    test = read_run(finished).evaluations[-1]
    assert f"{test['bits_per_byte']['model']:.4f} bits per byte" in page.text
    assert "groundup train --budget 3m --seed 1 --d-model 256" in page.text


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize(("name", "value", "kept"), [("parameters", 6_553_601, "✗"), ("seconds", 198.0, "✓"), ("seconds", 198.5, "✗")])
def test_counts_are_promised_exactly_and_the_rest_within_a_tenth(tmp_path: Path, name: str, value: float, kept: str) -> None:
    run = fake_run(tmp_path / "run", steps=2)
    measured = json.loads((run / "manifest.json").read_text())["measured"]
    edit(run, "manifest.json", measured=measured | {name: value})
    assert Page(write_report(run)).row({"seconds": "time"}.get(name, name))[-1] == kept


def test_plots_are_there_as_png_too(finished: Path) -> None:
    names = {path.stem for path in (finished / "plots").iterdir()}
    curves = {f"{measure}_by_{axis}" for measure in ("bits_per_byte", "loss") for axis in ("time", "tokens", "flops")}
    assert names == curves | {"learning_rate", "gradient_norm", "throughput", "phases", "parse_rate"}
    assert all(path.suffix == ".png" and path.read_bytes().startswith(b"\x89PNG") for path in (finished / "plots").iterdir())
    source = (finished / "report.html").read_text(encoding="utf-8")
    assert source.count("<svg") == len(names)
    assert all(re.search(rf">{part} \d", source) for part in ("counts", "network", "both", "test"))


def test_without_a_prior_there_is_one_held_out_curve(tmp_path: Path) -> None:
    source = write_report(fake_run(tmp_path / "run", steps=40, prior=False)).read_text(encoding="utf-8")
    assert re.search(r">validation \d", source) and not re.search(r">(network|counts|both) \d", source)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "<b>run & co", steps=20)
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    strange = [line | {"text": HOSTILE, "prompt": HOSTILE, "step": HOSTILE} for line in lines if "text" in line]
    (run / "samples.jsonl").write_text("\n".join(map(json.dumps, strange)))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "event", "what": HOSTILE, "step": 3, "text": HOSTILE}) + "\n")
        file.write(json.dumps({"kind": "phase", "name": HOSTILE, "seconds": 9.0}) + "\n")
    row = {"name": HOSTILE, "value": HOSTILE, "unit": HOSTILE, "why": HOSTILE, "source": HOSTILE}
    edit(run, "manifest.json", status=HOSTILE, created=HOSTILE, command=HOSTILE, environment={HOSTILE: HOSTILE}, corpus={"name": HOSTILE})
    edit(run, "manifest.json", plan={"budget": HOSTILE, "rows": [row], "predicted": {HOSTILE: 1.0}})
    edit(run, "config.json", note=HOSTILE)
    page = Page(write_report(run))
    assert not {tag for tag, _ in page.tags} & {"script", "img", "b>run"}
    assert page.text.count(HOSTILE) >= 12


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("missing", ["manifest.json", "metrics.jsonl", "samples.jsonl", "config.json"])
def test_a_missing_file_is_said_and_the_rest_shown(tmp_path: Path, missing: str) -> None:
    run = fake_run(tmp_path / "run", steps=20)
    (run / missing).unlink()
    page = Page(write_report(run))
    assert f"{missing} is missing" in page.text
    assert ("def fibonacci" in page.text) == (missing != "samples.jsonl")


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}"])
def test_a_run_with_nothing_in_it_has_a_report(tmp_path: Path, content: str) -> None:
    for name in ("manifest.json", "metrics.jsonl", "samples.jsonl", "config.json"):
        (tmp_path / name).write_text(content)
    page = Page(write_report(tmp_path))
    assert tmp_path.name in page.text and not list((tmp_path / "plots").iterdir())


@pytest.mark.usefixtures("unsaved")
@pytest.mark.parametrize("value", [None, 1, "text", [], [None], {}, {"a": {"b": [1]}}, math.nan])
def test_values_of_the_wrong_kind_are_left_out(tmp_path: Path, value: Any) -> None:
    run = fake_run(tmp_path / "run", steps=3)
    for key in ("command", "corpus", "environment", "code", "plan", "measured", "status", "created"):
        edit(run, "manifest.json", **{key: value})
    edit(run, "config.json", layers=value)
    odd = {"step": value, "tokens": value, "flops": value, "seconds": value, "loss": value, "bits_per_byte": value, "interval": value}
    with (run / "metrics.jsonl").open("a") as file:
        for kind in ("train", "evaluation", "phase", "event"):
            file.write(json.dumps({"kind": kind, "split": "test", "bytes": value, **odd}) + "\n")
    Page(write_report(run))
    summarize(run)


@pytest.mark.usefixtures("unsaved")
def test_an_interrupted_run_shows_its_last_validation_and_says_what_was_lost(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", steps=60, finished=False)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    page = Page(write_report(run))
    assert "interrupted" in page.text and "1 broken line was skipped" in page.text
    last = read_run(run).evaluations[-1]["bits_per_byte"]["model"]
    assert f"{last:.4f} bits per byte on validation text" in page.text
    assert page.row("parameters")[2:] == ["", "", ""]


def test_steps_done_again_after_a_resume_replace_the_first_attempt(tmp_path: Path) -> None:
    lines = [{"kind": "train", "step": step, "loss": loss} for step, loss in [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5), (4, 2.0)]]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = read_run(tmp_path)
    assert column(run.train, "step").tolist() == [1, 2, 3, 4] and column(run.train, "loss").tolist() == [5.0, 4.5, 3.5, 2.0]
    assert any("2 training steps were done again" in note for note in run.notes)


def test_the_same_files_give_the_same_page(finished: Path) -> None:
    first = (finished / "report.html").read_bytes()
    assert write_report(finished).read_bytes() == first
    assert not list(finished.rglob("*.partial"))


def test_runs_are_listed_by_date_with_the_files_numbers(tmp_path: Path) -> None:
    late = fake_run(tmp_path / "a", steps=20, created="2026-03-02T00:00:00+00:00")
    early = fake_run(tmp_path / "b", steps=20, created="2026-03-01T00:00:00+00:00", finished=False, budget="2e17flop")
    (tmp_path / "notes").mkdir()
    runs = list_runs(tmp_path)
    assert [run.path for run in runs] == [early, late]
    measured = json.loads((late / "manifest.json").read_text())["measured"]
    row = compare(runs)[1]
    assert (row["name"], row["status"], row["budget"]) == ("a", "finished", "3m")
    assert all(row[key] == measured[key] for key in ("parameters", "tokens", "bits_per_byte", "seconds"))
    assert compare(runs)[0]["bits_per_byte"] is None and compare(runs)[0]["status"] == "interrupted"
    assert list_runs(late) == [summarize(late)]
    out = plot_runs(runs, tmp_path / "runs.png")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_runs_without_evaluations_still_make_a_plot(tmp_path: Path) -> None:
    (tmp_path / "$x$ 漢").mkdir()
    (tmp_path / "$x$ 漢" / "manifest.json").write_text("{}")
    assert plot_runs(list_runs(tmp_path), tmp_path / "runs.png").is_file()


@pytest.mark.parametrize("make", [write_report, summarize, list_runs])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, make: Any) -> None:
    with pytest.raises(UsageError, match="groundup train"):
        make(tmp_path)
    with pytest.raises(UsageError, match="groundup train"):
        make(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_only_finite_numbers_count() -> None:
    assert [number(value) for value in (1, 2.5, True, "3", None, math.nan, math.inf, 10**400)] == [1.0, 2.5] + [None] * 6
