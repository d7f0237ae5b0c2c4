"""Loops compiled ahead: by a process that marks what is done, whose failure costs nothing, and that ends with its parent."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundup import ahead

LOOPS = """
from numba import njit

@njit(cache=True)
def twice(x):
    return 2 * x

def compile_all():
    twice(1)
"""
WAITS = """
import os
held = open({fifo!r}, "w")
held.write("here")
held.flush()
os.read(os.pipe()[0], 1)  # for ever
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of its own, so that what numba keeps lies in this test's folder."""
    folder = tmp_path / "room_of_loops"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "loops.py").write_text(LOOPS)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(ahead, "_helper", None)
    yield folder
    for name in [name for name in sys.modules if name.startswith("room_of_loops")]:
        del sys.modules[name]


def test_what_is_compiled_ahead_is_on_disk_and_no_process_is_started_again(room: Path) -> None:
    ahead.begin(("room_of_loops.loops",), ())
    assert ahead._helper is not None
    ahead.wait_for("room_of_loops.loops")
    assert not ahead.pending("room_of_loops.loops")
    assert ahead._helper._process.wait() == 0
    ahead._helper = None
    ahead.begin(("room_of_loops.loops",), ())
    assert ahead._helper is None
    loop = importlib.import_module("room_of_loops.loops").twice
    assert loop(3) == 6
    assert sum(loop.stats.cache_hits.values()) == 1 and not loop.stats.cache_misses


def test_other_code_is_compiled_anew(room: Path) -> None:
    before = ahead.mark_of(("room_of_loops.loops",))
    (room / "beside.py").write_text("changed = True")
    assert ahead.mark_of(("room_of_loops.loops",)) != before


def test_a_helper_that_fails_leaves_its_work_to_others(room: Path) -> None:
    (room / "broken.py").write_text("raise SystemExit(3)")
    ahead.begin(("room_of_loops.loops", "room_of_loops.broken"), ("room_of_loops.never",))
    for module in ("room_of_loops.broken", "room_of_loops.never"):
        ahead.wait_for(module)
        assert not ahead.pending(module)
    assert ahead._helper is not None and ahead._helper._process.wait() == 3
    assert not list((room / "__pycache__").glob("compiled-*"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the pipe that shows it has a name on POSIX only")
def test_a_helper_ends_when_its_parent_is_killed(room: Path) -> None:
    fifo = room / "fifo"
    os.mkfifo(fifo)
    (room / "waits.py").write_text(WAITS.format(fifo=str(fifo)))
    begins = "ahead.begin(('room_of_loops.loops', 'room_of_loops.waits'), ()); ahead.wait_for('room_of_loops.waits')"
    parent = subprocess.Popen([sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; from groundup import ahead; {begins}"])
    with open(fifo) as held:
        assert held.read(4) == "here"
        parent.kill()
        parent.wait()
        assert held.read() == ""  # the end, which comes when nobody holds it any more


USES = """
import numpy as np
from numba.core.dispatcher import Dispatcher
from groundup.config import Prior
from groundup.history.suffix import unbounded
from groundup.kernels import ngram, suffix_array
from groundup.model.prior import NgramPrior

def compiled():
    loops = {f"{m.__name__}.{name}": loop for m in (ngram, suffix_array) for name, loop in vars(m).items() if isinstance(loop, Dispatcher)}
    return {name: len(loop.signatures) for name, loop in loops.items()}

class Tokens:
    n_tokens, document_starts = 40, np.array([0, 20, 40])
    def slice(self, start, stop):
        return np.arange(40)[start:stop] % 7

ngram.compile_all()
suffix_array.compile_all()
before = compiled()
prior = NgramPrior.build(Tokens(), 8, Prior())
prior.features(Tokens())
cursor = prior.start()
cursor.push(1)
cursor.distribution()
texts = [np.arange(200) % 7, np.arange(60) % 5]
model = unbounded(texts, order=2, vocab_size=257, begin=256)
model.log_probs([np.array([256])], texts[:1])
cursor = model.start()
for token in (256, 3, 4, 5):
    cursor.push(token)
    cursor.probabilities()
print({name: n for name, n in compiled().items() if n != before[name]})
"""


def test_loops_are_compiled_for_the_types_that_a_run_gives_them() -> None:
    found = subprocess.run([sys.executable, "-c", USES], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "{}"
