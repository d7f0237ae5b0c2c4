"""The road as a result: ``groundup history`` on a text, pictures and all, its record kept with hardware, versions and date.

    python -m benchmarks.history [--data novels.jsonl] [--budget 5m] [--road FOLDER] [--out benchmarks/results/history.json]

``--road`` is a folder of ``groundup history`` of the same text and budget, whose finished stops are taken and not done again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.resources import RESULTS, provenance, save_result
from groundup.account import parse_budget
from groundup.history.road import choose, travel
from groundup.report.road import write_road


def main(arguments: Sequence[str] | None = None) -> None:
    """Walks the road, prints how far it was from its budget, writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--road", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "history.json")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        out = given.road or Path(folder)
        road = travel(given.data, parse_budget(given.budget).amount, choose(()), out)
        began = time.monotonic()
        write_road(road, out)
        road.spent_s += time.monotonic() - began
    where = provenance()
    result = asdict(road) | where | {"environment": road.environment | where["environment"]}
    print(f"{road.spent_s / road.budget_s:.3f} of the budget; {len(road.results)} stops, left out: {', '.join(road.left_out) or 'none'}")
    save_result(given.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
