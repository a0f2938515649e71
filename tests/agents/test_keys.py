"""An episode is a seed and its options, and has the same text wherever it is written."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env import ConfigurationError
from remote_env_agents import EpisodeKey
from remote_env_agents.keys import cross, hash_of_keys, read_options

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OPTIONS = st.dictionaries(st.text(), JSON, max_size=3)


@settings(max_examples=30)
@given(OPTIONS, st.integers(0, 2**64 - 1))
def test_a_key_does_not_depend_on_the_order_in_which_options_were_given(options, seed):
    key = EpisodeKey(seed, options)
    turned = EpisodeKey(seed, dict(reversed(list(options.items()))))
    assert (key, key.text, hash(key)) == (turned, turned.text, hash(turned))
    assert pickle.loads(pickle.dumps(key)) == key
    assert key.options == options


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (EpisodeKey(1), EpisodeKey(2)),
        (EpisodeKey(1), EpisodeKey(1, {"a": None})),
        (EpisodeKey(1, {"a": 1}), EpisodeKey(1, {"a": 1.0})),
        (EpisodeKey(1, {"a": 1}), EpisodeKey(1, {"a": True})),
        (EpisodeKey(1, {"a": "1"}), EpisodeKey(1, {"a": 1})),
    ],
)
def test_what_a_robot_could_tell_apart_is_another_episode(one, other):
    assert one != other
    assert hash_of_keys([one]) != hash_of_keys([other])


def test_the_text_is_for_ever():
    assert EpisodeKey(7).text == '{"seed":7}'
    assert EpisodeKey(7, {"b": [1, 2.5], "a": "é"}).text == (
        '{"options":{"a":"\\u00e9","b":[1,2.5]},"seed":7}'
    )
    assert EpisodeKey(np.int64(7)) == EpisodeKey(7, {})


def test_what_was_given_may_change_afterwards():
    options = {"at": [0.1, 0.2]}
    key = EpisodeKey(1, options)
    options["at"].append(0.3)
    assert key.options == {"at": [0.1, 0.2]}


@pytest.mark.parametrize(
    ("seed", "options", "message"),
    [
        (-1, {}, "from 0 to"),
        (2**64, {}, "from 0 to"),
        (1.5, {}, "whole number, not 1.5"),
        (1, {"a": float("nan")}, "must be JSON"),
        (1, {"a": (1, 2)}, "would come back as another value"),
        (1, {1: 2}, "would come back as another value"),
        (1, {"a": np.zeros(2)}, "must be JSON"),
        (1, [1], "are a dict"),
    ],
)
def test_what_could_not_be_written_down_is_refused(seed, options, message):
    with pytest.raises(ConfigurationError, match=message):
        EpisodeKey(seed, options)


def test_each_seed_is_crossed_with_each_of_the_options():
    keys = cross(range(2), [{"a": 1}, {"a": 2}])
    assert [key.name for key in keys] == ['0 {"a":1}', '0 {"a":2}', '1 {"a":1}', '1 {"a":2}']
    assert cross([5]) == (EpisodeKey(5),)


def test_the_hash_of_a_list_does_not_depend_on_its_order():
    keys = cross(range(3))
    assert hash_of_keys(keys) == hash_of_keys(keys[::-1]) != hash_of_keys(keys[:2])


@pytest.mark.parametrize("text", ['[{"a": 1}, {"b": 2}]', '{"a": 1}\n\n{"b": 2}\n'])
def test_options_are_read_from_a_list_or_from_lines(tmp_path, text):
    (tmp_path / "options").write_text(text)
    assert read_options(tmp_path / "options") == ({"a": 1}, {"b": 2})


@pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "é"])
def test_a_line_of_options_ends_at_a_line_feed_only(tmp_path, odd):
    (tmp_path / "options").write_bytes(f'{{"a": "1{odd}2"}}\r\n{{"b": 3}}\n'.encode())
    assert read_options(tmp_path / "options") == ({"a": f"1{odd}2"}, {"b": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"b": ', "line 2 of .* is no JSON"),
        ("[1, 2", "is no JSON"),
        ("[1, 2]", "one JSON object a line"),
        ("", "one JSON object a line"),
    ],
)
def test_other_files_of_options_are_refused(tmp_path, text, message):
    (tmp_path / "options").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_options(tmp_path / "options")
