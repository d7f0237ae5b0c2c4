"""The report of a run: one self-contained HTML page, and its plots as PNG files."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundup.files import disk_errors, write_file
from groundup.report import text
from groundup.report.figure import PALETTE, Plot
from groundup.report.plots import draw_plots
from groundup.report.run import Record, Run, dig, number, read_run

PROMISE = 0.10  # predicted seconds and memory are promised to within this; counts are promised exactly

STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem; margin: 0 auto;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { font-size: 1.1rem; } .muted { color: var(--muted); } .number { text-align: right; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
tr + tr td { border-top: 1px solid var(--grid); } th { font-weight: 600; color: var(--muted); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.2rem; }
figure { margin: 0; } .wide { grid-column: 1 / -1; }
svg { width: 100%; height: auto; } svg text { font-family: inherit; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: color-mix(in srgb, var(--grid) 40%, transparent); padding: .8rem;
  border-radius: .4rem; margin: .3rem 0; font-size: .85rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; } .scroll { overflow-x: auto; }
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
            (folder / f"{plot.name}.png").write_bytes(plot.png)
    target = run.path / "report.html"
    write_file(target, page(run, plots))
    return target


def page(run: Run, plots: Sequence[Plot]) -> str:
    """The whole HTML page."""
    name = run.path.resolve().name
    light, dark = (" ".join(f"--{k}: {v[i]};" for k, v in PALETTE.items()) for i in (0, 1))
    sections = [
        _head(run, name),
        _section("Predicted and measured", _predicted(run)),
        _section("Curves", _figures(plots)),
        _section("The plan", _plan(run)),
        _section("What it writes", _samples(run)),
        _section("The text", _facts(_corpus(run))),
        _section("Where it ran", _facts({**(dig(run.manifest, "environment") or {}), **(dig(run.manifest, "code") or {})})),
        _section("To repeat it", f"<pre>{html.escape(_command(run))}</pre>" if run.manifest else ""),
        _section("Events", _table(("step", "what", "text"), ((e.get("step"), e.get("what"), e.get("text")) for e in run.events))),
        _section("Of these files", "".join(f"<p>{html.escape(note)}</p>" for note in run.notes)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)} - groundup</title><style>{STYLE.replace('LIGHT', light).replace('DARK', dark)}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _head(run: Run, name: str) -> str:
    status = str(run.manifest.get("status", "unknown"))
    test = next((e for e in reversed(run.evaluations) if e.get("split") == "test"), None)
    lead = f"A run that is {html.escape(status)}."
    if test is not None:
        bits = dig(test, "bits_per_byte", "model")
        lead = f"<b>{bits:.4f} bits per byte</b> on held-out text" if number(bits) else lead
        interval = test.get("interval")
        if interval:
            lead += f" (95 % over documents: {interval[0]:.4f} to {interval[1]:.4f})"
        parts = [
            f"{part} {dig(test, 'bits_per_byte', part):.4f}" for part in ("network", "counts") if number(dig(test, "bits_per_byte", part))
        ]
        lead += f"; alone: {', '.join(parts)}" if parts else ""
        lead += f". {test.get('bytes', 0):,} bytes scored."
    budget = dig(run.manifest, "plan", "budget")
    about = " · ".join(str(v) for v in (f"budget {budget}" if budget else None, status, run.manifest.get("created")) if v)
    return f'<h1>{html.escape(name)}</h1><p class="muted">{html.escape(about)}</p><p class="lead">{lead}</p>'


def _predicted(run: Run) -> str:
    said, was = dig(run.manifest, "plan", "predicted") or {}, dig(run.manifest, "measured") or {}
    rows = []
    for name in said:
        a, b = number(said[name]), number(was.get(name))
        if a is None:
            continue
        if b is None:
            rows.append((text.spelled(name), text.quantity(name, a), "", "", ""))
            continue
        ratio = b / a if a else float("nan")
        allowed = PROMISE if name in ("seconds", "peak_memory_bytes") else 1e-9
        kept = "✓" if abs(ratio - 1) <= allowed else "✗"
        rows.append((text.spelled(name), text.quantity(name, a), text.quantity(name, b), f"{ratio:.3f}", kept))
    return _table(("", "predicted", "measured", "ratio", f"within {PROMISE:.0%}, counts exactly"), rows)


def _plan(run: Run) -> str:
    rows = dig(run.manifest, "plan", "rows") or []
    return _table(("", "chosen", "why", "source"), ((r.get("name"), r.get("value"), r.get("why"), r.get("source")) for r in rows))


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
            f'<div><div class="muted">step {s.get("step", "?")}{", parses" if s.get("parses") else ""}</div>'
            f"<pre><b>{html.escape(prompt)}</b>{html.escape(str(s.get('text', '')))}</pre></div>"
            for s in samples
        )
        out.append(f'<div class="samples">{cells}</div>')
    if run.parse_rates:
        last = run.parse_rates[-1]
        share, n = number(last.get("parse_rate")), last.get("n", "?")
        if share is not None:
            out.append(f"<p>Of {n} texts written from nothing, {share:.0%} of the lines stand in a beginning that parses as Python.</p>")
    return "".join(out)


def _corpus(run: Run) -> Record:
    corpus = dig(run.manifest, "corpus") or {}
    shown = {k: v for k, v in corpus.items() if k != "documents" and not isinstance(v, dict)}
    for split, n in (dig(corpus, "splits", "bytes") or {}).items():
        shown[f"{split} bytes"] = n
    return shown


def _facts(values: Record) -> str:
    return _table(
        ("", ""), ((text.spelled(str(k)), f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else v) for k, v in values.items())
    )


def _command(run: Run) -> str:
    command: Record = run.manifest.get("command") or {}
    words = ["groundup", "train", "--budget", str(command.get("budget", "")), "--seed", str(command.get("seed", 0))]
    if command.get("data"):
        words += ["--data", *map(str, command["data"])]
    defaults = {"arch": "groundup", "prior": "auto"}
    for name, value in (command.get("overrides") or {}).items():
        if value is not None and defaults.get(name) != value:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(w if w.replace("/", "").replace(".", "").replace("-", "").replace("_", "").isalnum() else json.dumps(w) for w in words)


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{html.escape('' if v is None else str(v))}</td>" for v in row) + "</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f"<th>{html.escape(n)}</th>" for n in names) if any(names) else ""
    return f'<div class="scroll"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'
