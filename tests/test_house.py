"""The laws of the house that no linter knows."""

import ast
import subprocess
import sys
from pathlib import Path

import groundup

ROOT = Path(groundup.__file__).parent
OWN_WORK = ("model", "optim", "train")  # rooms that may not lean on what they exist to write


def imported_modules(tree: ast.AST) -> set[str]:
    """Dotted names of everything that a file imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_layers_optimizers_and_loop_are_our_own():
    forbidden = ("torch.nn.functional", "torch.optim", "torch.nn.parallel", "torch.distributed.fsdp")
    for room in OWN_WORK:
        for file in sorted((ROOT / room).rglob("*.py")):
            tree = ast.parse(file.read_text())
            found = [name for name in imported_modules(tree) if name.startswith(forbidden)]
            assert not found, f"{file}: imports {found}"
            attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            assert not attributes & {"Linear", "scaled_dot_product_attention", "MultiheadAttention"}, file


def test_importing_the_package_loads_neither_torch_nor_numba():
    code = "import sys, groundup, groundup.cli, groundup.config, groundup.account; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_the_ground_floor_loads_no_torch():
    code = "import sys, groundup.data, groundup.tokenizer, groundup.account.plan; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
