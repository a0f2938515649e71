"""Pieces of HTML: texts are escaped, only ``Markup`` is put in as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["Markup", "details", "section", "table"]


class Markup(str):
    """HTML that was made here."""

    __slots__ = ()


def section(heading: str, content: str) -> str:
    """Return a section with a heading; nothing if there is nothing in it."""
    if not content:
        return ""
    identity = heading.lower().replace(" ", "-")
    return f'<section id="{identity}"><h2>{escape(heading)}</h2>{content}</section>\n'


def details(heading: str, content: str) -> str:
    """Return what is shown when somebody opens it."""
    return f"<details><summary>{escape(heading)}</summary>{content}</details>"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Return a table; without heads if all are empty."""
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    top = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="scroll"><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    return f"<td>{text if isinstance(text, Markup) else escape(text)}</td>"
