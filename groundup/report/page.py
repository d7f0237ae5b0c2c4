"""The report of a run: one self-contained HTML page, and its plots as PNG files."""

from __future__ import annotations

import html
import itertools
import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundup.files import disk_errors, write_bytes
from groundup.report import text
from groundup.report.figure import PALETTE, Plot
from groundup.report.plots import draw_plots
from groundup.report.run import Record, Run, dig, number, read_run

PROMISE = 0.10
"""Time, memory and bits per byte are promised to within this share."""
EXACT = ("parameters",)  # tokens and FLOPs follow the number of steps, which may follow the clock
"""Counts are promised exactly."""

STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 0 auto;
  padding: clamp(.8rem, 3vw, 1.5rem); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { font-size: 1.1rem; } .muted { color: var(--muted); } .number { text-align: right; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
tr + tr td { border-top: 1px solid var(--grid); } th { font-weight: 600; color: var(--muted); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; min-width: 0; } .wide { grid-column: 1 / -1; overflow-x: auto; } .wide svg { min-width: 44rem; }
svg { width: 100%; height: auto; } svg text { font-family: inherit; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb, var(--grid) 40%, transparent); padding: .8rem;
  border-radius: .4rem; margin: .3rem 0; font-size: .85rem; }
.samples { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(min(85%, 16rem), 1fr); gap: 1rem; overflow-x: auto;
  margin-bottom: 1rem; } .scroll { overflow-x: auto; }
"""


def write_report(path: Path) -> Path:
    """Writes ``report.html`` and ``plots/*.png`` into the run folder from whatever it holds, and returns the page's path.

    Raises UsageError if the folder is no run, GroundupError if it cannot be written.
    """
    run = read_run(Path(path))
    plots = draw_plots(run)
    folder = run.path / "plots"
    with disk_errors(folder):
        folder.mkdir(exist_ok=True)
        for plot in plots:
            write_bytes(folder / f"{plot.name}.png", plot.png)
    target = run.path / "report.html"
    write_bytes(target, page(run, plots).encode("utf-8", "replace"))
    return target


def page(run: Run, plots: Sequence[Plot]) -> str:
    """The whole HTML page."""
    name = run.path.resolve().name
    sections = [
        _head(run, name),
        section("Predicted and measured", _predicted(run)),
        section("Curves", _figures(plots)),
        section("The plan", _plan(run)),
        section("What it writes", _samples(run)),
        section("The text", _facts(_corpus(run))),
        section("Where it ran", _facts({**_object(run.manifest, "environment"), **_object(run.manifest, "code")})),
        section("The model", _config(run)),
        section("To repeat it", f"<pre>{html.escape(_command(run))}</pre>" if run.manifest.get("command") else ""),
        section("Events", table(("step", "what", "text"), ((e.get("step"), e.get("what"), e.get("text")) for e in run.events))),
        section("Of these files", "".join(f"<p>{html.escape(note)}</p>" for note in run.notes)),
    ]
    return document(name, sections)


def document(title: str, sections: Iterable[str]) -> str:
    """A self-contained page in the house's style, which loads nothing."""
    light, dark = (" ".join(f"--{k}: {v[i]};" for k, v in PALETTE.items()) for i in (0, 1))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)} - groundup</title><style>{STYLE.replace('LIGHT', light).replace('DARK', dark)}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading and what is below it; nothing where there is nothing."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _head(run: Run, name: str) -> str:
    status = str(run.manifest.get("status", "unknown"))
    lead = f"A run that is {html.escape(status)}."
    held_out = [(e, number(dig(e, "bits_per_byte", "model"))) for e in run.evaluations]
    # the test split where it was reached, else the last validation
    scored = sorted(((e, bits) for e, bits in held_out if bits is not None), key=lambda pair: pair[0].get("split") == "test")
    if scored:
        last, bits = scored[-1]
        lead = f"<b>{bits:.4f} bits per byte</b> on {'held-out' if last.get('split') == 'test' else 'validation'} text"
        interval = last.get("interval")
        ends = [number(end) for end in interval] if isinstance(interval, list) else []
        if len(ends) == 2 and None not in ends:
            lead += f" (95 % over documents: {ends[0]:.4f} to {ends[1]:.4f})"
        alone = [(part, number(dig(last, "bits_per_byte", part))) for part in ("network", "counts")]
        parts = [f"{part} {value:.4f}" for part, value in alone if value is not None]
        lead += f"; alone: {', '.join(parts)}" if parts else ""
        n_bytes = number(last.get("bytes"))
        of = number(last.get("of_bytes"))
        part = f" of {text.grouped(of)}, evenly spread," if of and n_bytes and of != n_bytes else ""
        lead += "." if n_bytes is None else f". {text.grouped(n_bytes)} bytes{part} scored."
    budget = dig(run.manifest, "plan", "budget")
    about = " · ".join(str(v) for v in (f"budget {budget}" if budget else None, status, run.manifest.get("created")) if v)
    return f'<h1>{html.escape(name)}</h1><p class="muted">{html.escape(about)}</p><p class="lead">{lead}</p>'


def _predicted(run: Run) -> str:
    said, was = _object(dig(run.manifest, "plan"), "predicted"), _object(run.manifest, "measured")
    rows = []
    for name in [*said, *(name for name in was if name not in said)]:
        a, b = number(said.get(name)), number(was.get(name))
        if a is None:
            if b is not None:
                rows.append((text.spelled(name), "", text.quantity(name, b), "", ""))
            continue
        if b is None:
            rows.append((text.spelled(name), text.quantity(name, a), "", "", ""))
            continue
        ratio = b / a if a else float("nan")
        allowed = 0.0 if name in EXACT else PROMISE
        kept = "✓" if abs(b - a) <= allowed * abs(a) else "✗"
        rows.append((text.spelled(name), text.quantity(name, a), text.quantity(name, b), f"{ratio:.3f}", kept))
    said_so = f'<p class="muted">Kept: parameters exactly; the rest within {PROMISE:.0%}.</p>'
    return table(("", "predicted", "measured", "ratio", "kept"), rows) + said_so if rows else ""


def _plan(run: Run) -> str:
    rows = dig(run.manifest, "plan", "rows")
    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    chosen = (" ".join(str(row[key]) for key in ("value", "unit") if row.get(key) not in (None, "")) for row in rows)
    cells = ((row.get("name"), value, row.get("why"), row.get("source")) for row, value in zip(rows, chosen, strict=True))
    return table(("", "chosen", "why", "source"), cells)


def _figures(plots: Sequence[Plot]) -> str:
    figures = (
        f'<figure class="{"wide" if p.wide else ""}" role="img" aria-label="{html.escape(p.title, quote=True)}">{p.svg}</figure>'
        for p in plots
    )
    return f'<div class="plots">{"".join(figures)}</div>' if plots else ""


def _samples(run: Run) -> str:
    by_prompt: dict[str, list[Record]] = {}
    for sample in run.samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    out = []
    for prompt, samples in by_prompt.items():
        cells = "".join(
            f'<div><div class="muted">step {html.escape(str(s.get("step", "?")))}{_verdict(s.get("parses"))}</div>'
            f"<pre><b>{html.escape(prompt)}</b>{html.escape(str(s.get('text', '')))}</pre></div>"
            for s in samples
        )
        out.append(f'<div class="samples">{cells}</div>')
    if run.parse_rates:
        last = run.parse_rates[-1]
        share, n = number(last.get("parse_rate")), last.get("n", "?")
        if share is not None:
            count = html.escape(str(n))
            out.append(
                f"<p>Of {count} texts written from nothing, {share:.0%} of the lines stand in a beginning that parses as Python.</p>"
            )
    return "".join(out)


def _verdict(parses: Any) -> str:
    return {True: ", parses", False: ", does not parse"}[parses] if isinstance(parses, bool) else ""


def _config(run: Run) -> str:
    """The configuration, equal neighbouring layers told once."""
    config = dict(run.config)
    if isinstance(config.get("layers"), list):
        runs = [(layer, len(list(same))) for layer, same in itertools.groupby(config["layers"])]
        config["layers"] = [{"count": count, "layer": layer} for layer, count in runs]
    return f"<details><summary>config.json</summary><pre>{html.escape(json.dumps(config, indent=1))}</pre></details>" if config else ""


def _object(tree: Any, key: str) -> Record:
    value = dig(tree, key)
    return value if isinstance(value, dict) else {}


def _corpus(run: Run) -> Record:
    corpus = _object(run.manifest, "corpus")
    shown = {k: v for k, v in corpus.items() if k != "documents" and not isinstance(v, dict)}
    for split, n in _object(corpus.get("splits"), "bytes").items():
        shown[f"{split} bytes"] = n
    return shown


def _facts(values: Record) -> str:
    return table(
        ("", ""), ((text.spelled(str(k)), f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else v) for k, v in values.items())
    )


def _command(run: Run) -> str:
    command = run.manifest.get("command")
    if not isinstance(command, dict):
        return shlex.join(map(str, command)) if isinstance(command, list) else str(command)
    words = ["groundup", "train", "--budget", str(command.get("budget", "")), "--seed", str(command.get("seed", 0))]
    data = command.get("data")
    if isinstance(data, list) and data:
        words += ["--data", *map(str, data)]
    if command.get("text_field", "text") != "text":
        words += ["--text-field", str(command["text_field"])]
    if number(command.get("save_every")) not in (None, 60.0):
        words += ["--save-every", str(command["save_every"])]
    processes = command.get("processes", 1)
    if isinstance(processes, int) and processes > 1:
        words[:1] = ["torchrun", "--nproc-per-node", str(processes), "-m", "groundup.cli"]
    defaults = {"arch": "groundup", "prior": "auto"}
    for name, value in _object(command, "overrides").items():
        if value is not None and defaults.get(name) != value:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows of plain values; nothing where there are none."""
    body = "".join("<tr>" + "".join(f"<td>{html.escape('' if v is None else str(v))}</td>" for v in row) + "</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names) if any(names) else ""
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'
