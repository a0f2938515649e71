"""What a learner passes to several robots: checked, and taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.arguments import check_options, check_seed, check_steps
from remote_env.errors import ActionRefusedError, ConfigurationError
from remote_env.joint import check_urls, naming
from remote_env.member import Member, PreparedAction

__all__ = [
    "Actions",
    "Flags",
    "check_seeds",
    "count_robots",
    "least_steps",
    "list_urls",
    "split_options",
]

Flags: TypeAlias = NDArray[np.bool_]
_MASK: Final = "reset_mask"
_ARRAYS: Final = (spaces.Box, spaces.MultiBinary, spaces.MultiDiscrete)


def count_robots(urls: Sequence[str] | None, num_envs: int) -> int:
    """Return how many robots there are.

    Raises:
        ConfigurationError: If ``num_envs`` is none, or not the number of urls.
    """
    if urls is None:
        if num_envs < 1:
            raise ConfigurationError(f"num_envs must be at least 1, not {num_envs!r:.40}")
        return num_envs
    if num_envs not in (1, len(urls)):  # Gymnasium says 1 where nobody said anything
        raise ConfigurationError(f"num_envs={num_envs!r:.40} and {len(urls)} urls; leave it out")
    return len(urls)


def list_urls(
    url: str | None, urls: Sequence[str] | None, *, robot: str | None, num_envs: int
) -> Sequence[str] | None:
    """Return the urls of the robots; None if they are not named.

    Raises:
        ConfigurationError: If there are two answers to which robots, or one url for several.
    """
    if (url, urls, robot).count(None) < 2:
        raise ConfigurationError(
            f"url={url!r:.80}, urls={urls!r:.80} and robot={robot!r:.80} (simulated here); give "
            "one of them"
        )
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(f"url must be text, not {url!r:.80}; give several as urls=[...]")
    if url is not None and num_envs != 1:
        raise ConfigurationError(
            f"num_envs={num_envs!r:.40} and one url, {url}, which is one robot; give urls=[...]"
        )
    if url is not None:
        return [url]
    if urls is not None:
        check_urls(urls)
    return urls


def least_steps(max_steps: int | None, max_episode_steps: int | None) -> int | None:
    """Return the limit of an episode, of our own argument and of Gymnasium's, where -1 is none.

    Raises:
        ConfigurationError: If one is none.
    """
    limits = [max_steps, None if max_episode_steps == -1 else max_episode_steps]
    given = [count for count in map(check_steps, limits) if count is not None]
    return min(given, default=None)


def check_seeds(seed: int | Sequence[int | None] | None, count: int) -> list[int | None]:
    """Return one seed for each robot.

    Args:
        seed: For the first robot, one more for the second, and so on; or one for each.
        count: How many robots.

    Raises:
        ValueError: If there are not as many.
        ConfigurationError: If one is none.
    """
    if seed is None:
        return [None] * count
    if isinstance(seed, (int, np.integer)):
        return [check_seed(int(seed) + i) for i in range(count)]
    if isinstance(seed, (str, bytes, Mapping)) or not isinstance(seed, (Sequence, np.ndarray)):
        raise ConfigurationError(
            f"seed must be an integer, or a list of one for each robot, not {seed!r:.80}"
        )
    if len(seed) != count:
        raise ValueError(f"{len(seed)} seeds for {count} robots; give one for each")
    return [check_seed(one) for one in seed]


def split_options(
    options: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None, count: int
) -> tuple[Flags, list[dict[str, Any] | None]]:
    """Return which robots are reset, ``(count,)`` bool, and the options of each.

    Raises:
        ConfigurationError: If they are no options, or if there are not as many.
        TypeError: If ``options["reset_mask"]`` is no array of bool.
        ValueError: If it has another shape, or is nowhere True.
    """
    everyone: Flags = np.ones(count, np.bool_)
    if isinstance(options, (list, tuple)):
        if len(options) != count:
            raise ConfigurationError(f"{len(options)} options for {count} robots; one for each")
        return everyone, [check_options(one) for one in options]
    if not isinstance(options, Mapping) or _MASK not in options:
        given = check_options(options)
        return everyone, [given] * count
    mask = options[_MASK]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['{_MASK}'] must be a numpy array of bool, not {mask!r:.80}")
    if mask.shape != (count,) or not mask.any():
        raise ValueError(
            f"options['{_MASK}'] must have the shape ({count},) and one True at least, not "
            f"{mask!r:.80}"
        )
    given = check_options({key: value for key, value in options.items() if key != _MASK})
    return mask, [given] * count


class Actions:
    """Takes batches of actions apart, one action for each robot."""

    def __init__(self, single: spaces.Space[Any], split: Callable[[Any], Iterable[Any]]) -> None:
        """Prepare.

        Args:
            single: The space of one action.
            split: How a batch that is not one array becomes one action after the other.
        """
        self._split = split
        # Rows of such a batch are what a robot's side wants, as they are.
        self._is_array = isinstance(single, _ARRAYS) and bool(single.shape)
        self._dtype, self._shape = single.dtype, single.shape or ()

    def prepare(self, actions: Any, members: Sequence[Member]) -> list[PreparedAction]:
        """Return one action for each robot.

        Args:
            actions: ``(m, ...)``, as a batch of the space.
            members: The robots.

        Raises:
            ActionRefusedError: If there are not as many, if something is not finite, or if
                shape or dtype are wrong; names the row or the url.
        """
        if (
            self._is_array
            and type(actions) is np.ndarray
            and actions.dtype == self._dtype
            and actions.shape == (len(members), *self._shape)
        ):
            if actions.dtype.kind == "f" and not (is_finite := np.isfinite(actions)).all():
                raise _not_finite(np.argwhere(~is_finite)[0][0])
            return [([action], ()) for action in actions]
        try:
            each = list(self._split(actions))
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ActionRefusedError(
                f"the actions do not fit the action space: {error}", code="robot.action.shape"
            ) from None
        if len(each) != len(members):
            raise ActionRefusedError(
                f"{len(each)} actions for {len(members)} robots; nothing was sent",
                code="robot.action.shape",
            )
        prepared = []
        for row, (member, action) in enumerate(zip(members, each, strict=True)):
            with naming(member.url):
                arrays, dtypes = member.prepare(action)
            if not all(np.isfinite(a).all() for a in arrays if a.dtype.kind == "f"):
                raise _not_finite(row)
            prepared.append((arrays, dtypes))
        return prepared


def _not_finite(row: int) -> ActionRefusedError:
    return ActionRefusedError(
        f"row {row} of the actions has a value that is not finite; nothing was sent",
        code="robot.action.not_finite",
    )
