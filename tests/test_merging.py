"""What several robots tell, merged: exactly as Gymnasium merges it."""

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.merging import merge_infos

VALUES = st.one_of(
    st.integers(-9, 9),
    st.floats(-9, 9),
    st.booleans(),
    st.text(max_size=3),
    st.none(),
    st.just([1, 2]),
    st.builds(np.float32, st.floats(-9, 9, width=32)),
    st.builds(np.bool_, st.booleans()),
    st.builds(lambda n: np.arange(3) * n, st.integers(0, 5)),
)
IMPOSSIBLE = (TypeError, ValueError, IndexError, AttributeError)


def spell_out(merged):
    """Return something that is equal if it is the same, NaN included."""
    if isinstance(merged, dict):
        return {key: spell_out(value) for key, value in merged.items()}
    return merged.dtype, merged.shape, list(map(repr, merged.tolist()))


def merge_theirs(infos):
    theirs = gym.vector.VectorEnv()
    theirs.num_envs = len(infos)
    merged = {}
    for index, info in enumerate(infos):
        merged = theirs._add_info(merged, info, index)
    return merged


@given(st.data(), st.integers(1, 4))
def test_infos_are_merged_as_gymnasium_merges_them(data, count):
    names = data.draw(st.lists(st.sampled_from(["a", "b", "final_obs", "_a"]), unique=True))
    one = st.fixed_dictionaries({name: VALUES for name in names})
    deep = st.fixed_dictionaries({"deep": one, **{name: VALUES for name in names}})
    alike = data.draw(st.booleans())
    infos = [data.draw(deep if alike else st.one_of(deep, one)) for _ in range(count)]

    try:
        expected = merge_theirs(infos)
    except IMPOSSIBLE:
        with pytest.raises(IMPOSSIBLE):
            merge_infos(infos)
        return
    assert spell_out(merge_infos(infos)) == spell_out(expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1.0}, {"b": 2.0}),
        ({"a": 1.0, "deep": {"c": 1}}, {"a": 2.0, "deep": {"d": 1}}),
        ({"a": np.ones(2)}, {"a": np.full(2, 0.1, np.float32)}),
        ({"a": np.ones(2, np.int64)}, {"a": np.full(2, 0.5)}),
        ({"a": 1, "b": 2.0}, {"b": 3.0, "a": 4}),
        ({"a": np.ones(2)}, {"a": None}),
        ({"a": np.ones(2)}, {"a": 3.0}),
        ({"a": 1.5}, {"a": None}),
        ({"a": {}}, {"a": {}}),
        ({}, {}),
    ],
)
def test_what_is_nearly_alike_is_merged_as_gymnasium_merges_it(one, other):
    assert spell_out(merge_infos([one, other])) == spell_out(merge_theirs([one, other]))


def test_nobody_else_sees_what_is_written_to_merged_infos():
    infos = [{"a": 1.0, "b": 2.0, "deep": {"c": 3.0, "d": 4}} for _ in range(2)]
    merged = merge_infos(infos)
    merged["a"][:] = 9.0
    merged["_a"][:] = False
    assert (merged["b"].tolist(), merged["_b"].tolist()) == ([2.0, 2.0], [True, True])
    again = merge_infos(infos)
    assert (infos[0]["a"], again["a"].tolist(), again["_a"].tolist()) == (
        1.0,
        [1.0] * 2,
        [True] * 2,
    )
