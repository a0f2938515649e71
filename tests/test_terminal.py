"""Texts of somebody else's in a terminal."""

import io

import pytest
from rich.console import Console

from remote_env.terminal import plain


def shown(text):
    """What is printed in bold between two words of ours, on a terminal."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=10_000)
    console.print(f"a [bold]{plain(text)}[/] b", highlight=False, soft_wrap=True)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "arm",
        "[red]arm[/]",
        "[/]",
        r"a\[/]b",
        r"a\\[bold]b",
        r"C:\robots\arm",
        r"list\[0] and [1, 2]",
        "ws://[::1]:8765",
        "two\nlines",
        "weiß 機",
    ],
)
def test_it_is_shown_as_it_is(text):
    assert shown(text) == f"a {text} b\n"


@pytest.mark.parametrize("text", ["arm\\", "arm[", "arm\\\\\\", "arm\\["])
def test_it_takes_nothing_from_what_follows(text):
    seen = shown(text)
    assert seen.startswith("a arm")
    assert "/" not in seen  # our own end of bold is no text


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("\x1b[2Jarm", r"\x1b[2Jarm"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("arm\rleg", r"arm\rleg"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_would_control_the_terminal_is_spelled_out(text, seen):
    assert shown(text) == f"a {seen} b\n"
