"""The whole suite runs with types and shapes checked at every call, on one thread."""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits sleeps: tests share the machine

import groundup

COMPILED = {
    *(f"kernels.{name}" for name in ("native", "ngram", "trie", "arpa_lines", "suffix_array")),
    *(
        f"tokenizer.{name}"
        for name in ("machine", "matching", "rules", "scan", "pretokens", "merge_loops", "crossings", "engine", "counting")
    ),
}
"""Modules that numba compiles: it takes plain functions only. All others are checked."""

ROOT = Path(groundup.__file__).parent
modules = [".".join(("groundup", *path.relative_to(ROOT).with_suffix("").parts)) for path in sorted(ROOT.rglob("*.py"))]
checked = [name for name in modules if name.partition(".")[2] not in COMPILED and not name.endswith("__init__")]
jaxtyping.install_import_hook(checked, "checking.typechecker")  # before anything else of groundup is imported

import hypothesis  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("untimed", deadline=None)  # how long an example takes says more of the machine than of the code
hypothesis.settings.load_profile("untimed")

torch.set_num_threads(1)  # one order of summation, and no thread to wake for tensors this small


def pytest_configure(config: pytest.Config) -> None:
    """Beartype looks at one item of a list by chance, which hypothesis would forbid inside strategies."""
    config.addinivalue_line("filterwarnings", "ignore:Do not use the `random` module inside strategies")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For a test that passes values of the wrong type on purpose, to see what the code itself says to them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
