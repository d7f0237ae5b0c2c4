"""The tokens of a text, coloured: as one self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Sequence

from groundup.terminal import COLOURS, visible

_STYLE = """
body { font: 16px/1.7 system-ui, sans-serif; color: #1c1c1c; background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { font: 15px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
span { border-radius: .2rem; padding: .12rem 0; } span:hover { outline: 2px solid #444; } .muted { color: #666; }
"""


def token_page(title: str, tokens: Sequence[tuple[int, bytes]]) -> str:
    """The page: each token (id, bytes) in a colour of its own, its id and bytes shown when pointed at."""
    n_bytes = sum(len(token) for _, token in tokens)
    spans = "".join(_span(i, number, token) for i, (number, token) in enumerate(tokens))
    counted = f"{len(tokens):,} tokens, {n_bytes:,} bytes" + (f", {n_bytes / len(tokens):.2f} bytes a token" if tokens else "")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f'{head}<h1>{html.escape(title)}</h1><p class="muted">{counted}</p><pre>{spans}</pre></html>\n'


def _span(place: int, number: int, token: bytes) -> str:
    colour, said = COLOURS[place % len(COLOURS)], html.escape(f"{number}: {token!r}")
    return f'<span style="background:{colour}" title="{said}">{html.escape(visible(token))}</span>'
