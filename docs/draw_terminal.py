"""Draws a command's terminal as an SVG: ``python docs/draw_terminal.py docs/terminal.svg -- groundup train --budget 30s``.

The command runs in a pseudo-terminal of its own and the picture shows what would stand on the screen at the end, scrolled back to the
first line: what is drawn is what was printed.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 118
CODES = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


def captured(command: list[str]) -> str:
    """What the command writes to a terminal of WIDTH columns; SystemExit if it fails."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(WIDTH), "LINES": "60", "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    parts = []
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # Linux' way to say that the other side is closed
            break
        if not data:
            break
        parts.append(data)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return b"".join(parts).decode()


def screen(stream: str) -> list[str]:
    """The lines that stand at the end, colors in them: understands the moves that progress bars make, up a line and erase it."""
    lines, row = [""], 0
    for match in CODES.finditer(stream):
        numbers, letter, _, newline, text = match.groups()
        if letter == "A":
            row = max(0, row - int(numbers or 1))
        elif letter == "K":
            lines[row] = ""
        elif letter == "m":
            lines[row] += match[0]
        elif newline:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text:
            lines[row] += text
    while lines and not re.sub(r"\x1b\[[0-9;]*m", "", lines[-1]).strip():
        lines.pop()
    return lines


def main() -> None:
    """Runs, draws, writes."""
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        raise SystemExit((__doc__ or "").partition("\n")[0])
    target, command = Path(sys.argv[1]), sys.argv[3:]
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115  for the life of this process
    console.print(Text(f"$ {' '.join(command)}", style="bold"))
    for line in screen(captured(command)):
        console.print(Text.from_ansi(line), soft_wrap=True)
    svg = console.export_svg(title="groundup")
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))  # fonts from the network: the reader's own will do


if __name__ == "__main__":
    main()
