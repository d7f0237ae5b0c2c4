"""The page and the terminal that show a text's tokens."""

import io
import re
from itertools import pairwise

from rich.console import Console

from groundup.report.tokens import token_page
from groundup.terminal import show_tokens, visible

TOKENS = [(104, b"<h"), (5, b"\xc3"), (6, b"\xa9"), (7, b" \n"), (300, "né".encode())]


def test_every_byte_of_a_token_can_be_seen():
    assert [visible(token) for _, token in TOKENS] == ["<h", "\\xc3", "\\xa9", " ↵\n", "né"]


def test_the_page_holds_each_token_once_with_its_id_and_markup_is_text():
    page = token_page("a <title>", TOKENS)
    assert re.findall(r'title="(\d+): ', page) == [str(number) for number, _ in TOKENS]
    assert "&lt;h</span>" in page and "<h<" not in page and "a &lt;title&gt;" in page
    assert "5 tokens, 9 bytes, 1.80 bytes a token" in page
    backgrounds = re.findall(r"background:(#\w+)", page)
    assert all(a != b for a, b in pairwise(backgrounds))


def test_the_terminal_shows_the_text_and_counts_it():
    out = io.StringIO()
    show_tokens(TOKENS, console=Console(file=out, width=80))
    assert out.getvalue() == "<h\\xc3\\xa9 ↵\nné\n5 tokens, 9 bytes, 1.80 bytes a token\n"
    show_tokens([], console=Console(file=out, width=80))
    assert out.getvalue().endswith("0 tokens, 0 bytes\n")
