"""Modified Kneser-Ney against KenLM (Heafield 2011, Heafield et al. 2013): the same probabilities, at what time and memory.

    python -m benchmarks.kneser_ney --data novels.jsonl [--lmplz build/bin/lmplz] [--megabytes 12] [--order 5] [--rounds 3]
        [--out benchmarks/results/kneser_ney.json]

Every line is a sentence, words stand between blanks. The model of the first --megabytes is estimated from a file and written as an ARPA
file, each time in a fresh process, in turns with lmplz where its path is given (it is built from KenLM's sources with cmake and Boost);
what numba compiles is compiled before. The next tenth of the text is then scored word for word: by us, by KenLM's module from our file,
and by it from lmplz's. Last, text that lmplz refuses: few sentences of single letters.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.resources import RESULTS, ROOT, provenance, save_result
from benchmarks.tokenizer import read_text
from groundup.errors import GroundupError, UsageError
from groundup.history.arpa import write_arpa
from groundup.history.counts import count
from groundup.history.ngram import NgramModel
from groundup.history.smoothing import kneser_ney
from groundup.history.symbols import Words

LAUNCH = """
import json, os, sys, time
started = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
status, used = os.wait4(pid, 0)[1:]
print(json.dumps([os.waitstatus_to_exitcode(status), time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""
"""Runs a command from a process that is small itself: a child's peak memory counts from its parent's."""


def sentences(path: Path) -> Iterator[str]:
    """The lines of a file, as lmplz reads them."""
    with path.open(encoding="utf-8", newline="\n") as file:
        yield from file


def estimate(text: Path, order: int) -> NgramModel:
    """Our model of a text file, which is read twice and never held."""
    words = Words.of(sentences(text))
    counts = count((words.sentence(line) for line in sentences(text)), order=order, vocab_size=words.vocab_size, begin=words.begin)
    return kneser_ney(counts, symbols=words)


def launched(command: Sequence[str]) -> dict[str, float]:
    """Seconds, seconds of all cores and peak memory of a command; GroundupError with its last line if it fails."""
    done = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True, cwd=ROOT)
    code, seconds, cpu_seconds, peak_bytes = json.loads(done.stdout.splitlines()[-1])
    if code:
        raise GroundupError(f"{Path(command[0]).name} ended with {code} and said: {(done.stderr.strip() or 'nothing').splitlines()[-1]}")
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak_bytes}


def estimation(text: Path, work: Path, order: int, lmplz: str | None, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds of each one's time and memory from the text file to the ARPA file."""
    commands = {
        "groundup": [sys.executable, "-m", "benchmarks.kneser_ney", "--estimate", str(text), str(work / "groundup.arpa"), str(order)]
    }
    if lmplz:
        files = ["--text", str(text), "--arpa", str(work / "lmplz.arpa"), "--temp_prefix", f"{work}/"]
        commands["lmplz"] = [lmplz, "--order", str(order), "--memory", "1G", *files]
    (work / "warm.txt").write_text("a b c\nb a c\n")
    launched([*commands["groundup"][:4], str(work / "warm.txt"), str(work / "warm.arpa"), str(order)])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            found[name].append(launched(command))
    return {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}


def agreement(model: NgramModel, held_out: list[str], files: dict[str, Path]) -> dict[str, Any]:
    """The largest difference of a word's log10 probability between us and KenLM, and each one's words a second of one core."""
    texts = [model.symbols.sentence(line) for line in held_out]
    contexts = [np.array(model.prefix)] * len(texts)
    ours = np.concatenate(model.log_probs(contexts, texts)) / math.log(10)
    block = [np.concatenate([part for pair in zip(contexts, texts, strict=True) for part in pair])]
    seconds = []
    for _ in range(5):
        started = time.process_time()
        model.log_probs([block[0][:0]], block)
        seconds.append(time.process_time() - started)
    found: dict[str, Any] = {"n_words": len(ours), "words_per_core_second": {"groundup": len(ours) / statistics.median(seconds)}}
    if importlib.util.find_spec("kenlm") is None:
        return found | {"kenlm": "not installed"}
    import kenlm

    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    for name, path in files.items():
        theirs = kenlm.Model(str(path), config)
        started = time.process_time()
        scores = np.array([p for line in held_out for p, _, _ in theirs.full_scores(line)])
        found["words_per_core_second"]["kenlm, from Python"] = len(scores) / (time.process_time() - started)
        found[f"largest difference, {name}"] = float(np.abs(scores - ours).max())
    return found


def refused(work: Path, line: str, lmplz: str | None, order: int) -> dict[str, Any]:
    """What lmplz and we say of a few sentences of single letters."""
    path = work / "letters.txt"
    path.write_text("".join(" ".join(letters) + "\n" for letters in line.lower().split() if letters.isalpha()))
    found: dict[str, Any] = {"n_bytes": path.stat().st_size, "groundup": list(estimate(path, order).notes)}
    if lmplz:
        try:
            launched([lmplz, "--order", str(order), "--text", str(path), "--arpa", str(work / "no.arpa"), "--memory", "1G"])
            found["lmplz"] = "estimated it"
        except GroundupError as e:
            found["lmplz"] = str(e).replace(str(work), "")
    return found


def rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """The table for people: ratios first."""
    used = result["estimation"]
    return [
        {
            "contestant": name,
            "time over lmplz": f"{own['seconds'] / used['lmplz']['seconds']:.2f}" if "lmplz" in used else "",
            "of all cores": f"{own['cpu_seconds'] / used['lmplz']['cpu_seconds']:.2f}" if "lmplz" in used else "",
            "memory over lmplz": f"{own['peak_bytes'] / used['lmplz']['peak_bytes']:.2f}" if "lmplz" in used else "",
            "seconds": f"{own['seconds']:.1f}",
            "MB": f"{own['peak_bytes'] / 1e6:.0f}",
        }
        for name, own in used.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, writes the result file, prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", help="files or folders of text")
    parser.add_argument("--text-field", default="text", help="where a JSON line has its text")
    parser.add_argument("--lmplz", help="KenLM's estimator; without it, only queries are compared")
    parser.add_argument("--megabytes", type=float, default=12, help="of text to estimate from")
    parser.add_argument("--order", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant")
    parser.add_argument("--out", type=Path, default=RESULTS / "kneser_ney.json", help="result file")
    parser.add_argument("--estimate", nargs=3, help=argparse.SUPPRESS)  # a contestant's own process
    given = parser.parse_args(arguments)
    if given.estimate:
        text, arpa, order = given.estimate
        write_arpa(estimate(Path(text), int(order)), arpa)
        return
    if not given.data or given.rounds < 1 or given.megabytes <= 0 or given.order < 2:
        raise UsageError("--data names the text; --rounds must be at least 1, --megabytes more than 0 and --order at least 2")
    from groundup.terminal import show_rows

    whole = read_text(given.data, int(given.megabytes * 1.1e6), given.text_field).decode().replace("\0", " ")
    cut = whole.find("\n", int(len(whole) / 1.1)) + 1
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "text.txt").write_text(whole[:cut], newline="\n")
        result: dict[str, Any] = {"benchmark": "kneser_ney", **provenance(), "order": given.order, "n_bytes": len(whole[:cut].encode())}
        result["estimation"] = estimation(work / "text.txt", work, given.order, given.lmplz, given.rounds)
        model = estimate(work / "text.txt", given.order)
        result |= {"n_grams": np.diff(model.levels[1:]).tolist(), "notes": list(model.notes)}
        files = {name: work / f"{name}.arpa" for name in result["estimation"]}
        result["agreement"] = agreement(model, whole[cut:].split("\n")[:-1], files)
        result["letters"] = refused(work, whole[:1000], given.lmplz, given.order)
    save_result(given.out, result)
    show_rows(rows(result), title=f"modified Kneser-Ney, order {given.order}, {result['n_bytes'] / 1e6:.1f} MB")
    print(json.dumps({name: result[name] for name in ("benchmark", "estimation", "agreement", "letters")}))


if __name__ == "__main__":
    try:
        main()
    except GroundupError as e:
        raise SystemExit(f"kneser_ney: {e}") from None
