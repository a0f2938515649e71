"""The prose and the code say the same; regenerate the diagram with the command in the page."""

import itertools
import re
import textwrap
from pathlib import Path
from typing import get_args

import pytest

import remote_env_server
from remote_env import errors
from remote_env.goals import RewardKind
from remote_env.protocol import MESSAGES, OUT_OF_BAND, REPLIES, EndReason, Role, diagram
from remote_env.protocol.arrays import DTYPES
from remote_env.protocol.codec import PREFIX_SIZE, WIRE_VERSION
from remote_env.protocol.messages import arrays_field, wire_fields
from remote_env.spec import Mode, OutOfBounds, StreamKind
from tests.golden.expected import GOLDEN, SPEC
from tests.protocol.frames import frame_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
CODE_OF_ERROR = re.compile(r'code="([a-z_.]+)"')


def section(title):
    """Return what stands under a heading, up to the next one."""
    _, found, rest = PAGE.partition(f"# {title}\n")
    assert found, f"docs/protocol.md has no heading {title!r}"
    return re.split(r"^#+ ", rest, flags=re.MULTILINE)[0]


def rows(text):
    """Return the cells of all rows of tables, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [
        [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines
    ]
    rules = [i for i, row in enumerate(cells) if set("".join(row)) <= {"-", " "} and row[0]]
    heads = {i - 1 for i in rules}
    return [row for i, row in enumerate(cells) if i not in heads and i not in rules]


def names(text):
    return [row[0].strip("`") for row in rows(text)]


def who(sender):
    return {Role.CLIENT: "client", Role.SERVER: "server", None: "client or server"}[sender]


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_the_table_of_a_message_has_its_fields_and_their_wire_types(cls):
    text = section(f"{cls.KIND} {cls.__name__}, {who(cls.SENDER)}")

    documented = [(row[0], row[1]) for row in rows(text) if len(row) == 3]
    assert documented[: len(wire_fields(cls))] == [
        (f"`{name}`", wire.name) for name, wire in wire_fields(cls)
    ]


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_the_text_of_a_message_says_which_arrays_it_carries(cls):
    text = section(f"{cls.KIND} {cls.__name__}, {who(cls.SENDER)}")
    agreed = arrays_field(cls)

    said = re.findall(r"^Arrays: the (\w+)\.$", text, flags=re.MULTILINE)
    assert said == ([agreed[1]] if agreed else [])


def test_no_other_message_is_documented():
    titles = re.findall(r"^### (\d+) (\w+), ", PAGE, flags=re.MULTILINE)

    assert titles == [(str(kind), cls.__name__) for kind, cls in MESSAGES.items()]


def test_every_wire_type_is_explained():
    explained = set(names(section("3 The header")))
    used = {wire.name for cls in MESSAGES.values() for _, wire in wire_fields(cls)}

    plain = {name.removesuffix(" or nil").removeprefix("list of ") for name in used}
    assert {name for name in plain if not name.startswith('"')} <= explained


def test_the_table_of_dtypes_is_complete():
    documented = [
        (row[0].strip("`"), int(row[2])) for row in rows(section("4 Arrays and the payload"))
    ]

    assert documented == [(name, dtype.itemsize) for name, dtype in DTYPES.items()]


def test_the_table_of_requests_is_complete():
    table = [(row[0].strip("`"), row[1].strip("`")) for row in rows(section("8 Request ids"))]

    assert table == [(a.__name__, b.__name__) for a, b in REPLIES.items()]


def test_the_diagram_is_the_one_that_is_drawn_from_the_table():
    block = re.search(
        r"<!-- states: begin.*?```mermaid\n(.*?)\n```\n<!-- states: end -->", PAGE, re.S
    )

    assert block is not None
    assert block[1] == diagram()


@pytest.mark.parametrize("cls", OUT_OF_BAND, ids=lambda cls: cls.__name__)
def test_messages_out_of_band_are_named(cls):
    assert f"`{cls.__name__}`" in section("9 What may be said when")


def test_the_prefix_and_the_version_are_those_of_the_code():
    assert f"a prefix of {PREFIX_SIZE} bytes" in PAGE
    assert f"The wire version is {WIRE_VERSION}." in PAGE
    assert ["3", "1", "wire version", str(WIRE_VERSION)] in rows(section("2 The frame"))


ERROR_CLASSES = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


@pytest.mark.parametrize("cls", ERROR_CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_in_the_table(cls):
    row = [f"`{cls.code}`", f"`{cls.__name__}`", "yes" if cls.retryable else "no"]

    assert row in [cells[:3] for cells in rows(section("10 Errors"))]


def test_every_refined_code_of_the_sources_is_in_the_table_and_no_other():
    folders = [ROOT / "remote_env", Path(remote_env_server.__file__).parent]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    sources = [path.read_text() for path in files if path.parent.name != "robots"]
    used = set(itertools.chain.from_iterable(map(CODE_OF_ERROR.findall, sources)))

    refined = set(names(section("10 Errors"))) - {cls.code for cls in ERROR_CLASSES}
    assert refined == used


def test_the_table_of_end_reasons_is_complete():
    documented = names(section("8 StepDone, server"))

    assert [name for name in documented if name in set(EndReason)] == list(EndReason)


def test_every_key_of_the_metadata_is_documented():
    metadata = GOLDEN["02-welcome"].metadata
    documented = names(section("11 Metadata"))
    spaces = {"Box", "Discrete", "MultiBinary", "MultiDiscrete", "Dict", "Tuple"}

    goal_reward = GOLDEN["02-welcome-goal-reward"].metadata["goal_reward"]
    limit = metadata["action_limits"]["target"]
    keys = [*metadata, *metadata["streams"][0], *limit, *goal_reward]
    assert documented == [*keys, *documented[len(keys) :]]
    assert set(documented[len(keys) :]) == spaces


@pytest.mark.parametrize("word", [*Mode, *OutOfBounds, *StreamKind, *get_args(RewardKind)])
def test_every_word_of_the_metadata_is_documented(word):
    assert f"`{word!s}`" in section("11 Metadata")


@pytest.mark.parametrize("name", ["07-step", "11-ping"])
def test_the_worked_examples_are_golden_frames(name):
    frame = frame_of(GOLDEN[name])
    lines = [
        f"{i:08x}  {frame[i : i + 8].hex(' ')}  {frame[i + 8 : i + 16].hex(' ')}".strip()
        for i in range(0, len(frame), 16)
    ]

    assert "\n".join(lines) in section("20 A worked example")


def test_the_steps_of_the_worked_example_are_where_they_say():
    frame = frame_of(GOLDEN["07-step"])
    parts = [
        (int(offset), bytes.fromhex(cell.strip("`")))
        for offset, cell, _ in rows(section("20 A worked example"))
        if cell.startswith("`")
    ]

    assert sum(len(part) for _, part in parts) == len(frame) - 33 - 52
    assert [frame[offset : offset + len(part)] for offset, part in parts] == [p for _, p in parts]


def test_the_example_of_metadata_is_the_golden_robot():
    text = section("11 Metadata")

    assert f'"name": "{SPEC.name}"' in text
    assert '"gear_ratios": {"$t": [100, 100, 50]}' in text


def test_the_page_has_one_sentence_per_line():
    prose = re.sub(r"```.*?```", "", PAGE, flags=re.S)
    lines = [line for line in prose.splitlines() if line and line[0] not in "|#-<0123456789"]

    several = [line for line in lines if re.search(r"[a-z`]\. [A-Z]", line)]
    assert several == []
    assert textwrap.dedent(PAGE) == PAGE
