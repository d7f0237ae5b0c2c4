"""The book stays true: its programs run, its links lead somewhere, the functions that it names exist, its numbers are replaced."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "docs").glob("*.md"))
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def load_script():
    """docs/write_numbers.py as a module."""
    spec = importlib.util.spec_from_file_location("write_numbers", ROOT / "docs" / "write_numbers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def defined_names(file: Path) -> set[str]:
    """Functions, classes, ``Class.member`` and constants of a module."""
    names = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    names.add(f"{node.name}.{member.name}")
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(f"{node.name}.{member.target.id}")
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def anchors(file: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.name)
def test_links_lead_to_files_and_to_the_functions_that_they_name(chapter):
    for text, target in LINK.findall(chapter.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = chapter.parent / path if path else chapter
        assert file.exists(), f"{chapter.name}: {target} does not exist"
        if anchor:
            assert anchor in anchors(file), f"{chapter.name}: {target}: no such heading"
        name = text.strip("`")
        if file.suffix == ".py" and text.startswith("`") and not name.endswith((".py", "/")):
            assert name in defined_names(file), f"{chapter.name}: {name} is not in {path}"


def test_the_programs_of_the_chapters_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for chapter in CHAPTERS:
        blocks = re.findall(r"^```python\n(.*?)^```", chapter.read_text(), re.DOTALL | re.MULTILINE)
        exec(compile("\n".join(blocks), chapter.name, "exec"), {"__name__": chapter.stem})
    assert "nats a token" in capsys.readouterr().out


def test_a_number_is_replaced_where_it_is_marked_and_nothing_else_changes(tmp_path, capsys):
    script = load_script()
    page = tmp_path / "page.md"
    page.write_text("a <!-- number: min-bytes -->1<!-- /number --> b")
    assert script.main(["--check", str(page)]) == 1
    assert "page.md: min-bytes" in capsys.readouterr().err
    assert script.main([str(page)]) == 0
    assert page.read_text() == "a <!-- number: min-bytes -->2,048<!-- /number --> b"
    assert script.main(["--check", str(page)]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [("<!-- number: nonsense -->1<!-- /number -->", "no number is called 'nonsense'"), ("<!-- number: law -->1", "not closed")],
)
def test_a_marker_that_means_nothing_is_named(tmp_path, text, message):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit, match=message):
        load_script().main([str(page)])
