"""Which robot an environment gets if it was given several, or none.

A program that knows nothing of robots makes its environments one by one, all with the same
arguments, in one process or in many. So each gets the first robot that no other one has: whoever
gets a robot locks a file, which ends with the environment, with its process at the latest. That
is a matter of who gets what, on one machine; who may command, the robot's lease decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from remote_env.errors import ConfigurationError
from remote_env.joint import check_urls
from remote_env.tokens import read_token

__all__ = ["URLS_VARIABLE", "Choice", "choose_urls"]

logger = logging.getLogger(__name__)

URLS_VARIABLE: Final = "REMOTE_ENV_URLS"


class Choice:
    """The robots that were chosen for somebody, until it gives them back.

    Attributes:
        urls: Of the robots.
        token: For them, if the environment variables chose.
    """

    def __init__(self, urls: Sequence[str], files: list[int], token: str | None) -> None:
        """Hold them.

        Args:
            urls: Of the robots.
            files: Locked for those of them that nobody else has.
            token: See the attribute.
        """
        self.urls = tuple(urls)
        self.token = token
        self._files = files
        _choices.add(self)

    def give_back(self) -> None:
        """Let others get them, also while a fork has not let go yet. Idempotent."""
        while self._files:
            file = self._files.pop()
            fcntl.flock(file, fcntl.LOCK_UN)
            os.close(file)

    def forget(self) -> None:
        """Let go, in a fork; whoever was forked keeps them."""
        while self._files:
            os.close(self._files.pop())


_choices: weakref.WeakSet[Choice] = weakref.WeakSet()


def _forget_all() -> None:
    for choice in list(_choices):
        choice.forget()


os.register_at_fork(after_in_child=_forget_all)  # a lock lasts until all have closed the file


def choose_urls(owner: object, urls: Sequence[str] | None, count: int) -> Choice | None:
    """Choose robots that no other environment of this user on this machine was given.

    If there are too few of them, also others, the first ones, and the log says so.

    Args:
        owner: Gives them back at the latest when nobody refers to it any more.
        urls: To choose from; None for those in REMOTE_ENV_URLS, with spaces between them.
        count: How many.

    Returns:
        None if there is nothing to choose from.

    Raises:
        ConfigurationError: If the urls are no list of different urls, or fewer than ``count``.
    """
    token = None
    if urls is None:
        urls = os.environ.get(URLS_VARIABLE, "").split()
        if not urls:
            return None
        token = read_token(None)
        logger.warning("no url was given: choosing from %s=%s", URLS_VARIABLE, " ".join(urls))
    check_urls(urls)
    if len(urls) < count:
        raise ConfigurationError(
            f"{count} robots of {len(urls)} ({', '.join(urls)}); a url is one robot, so give more "
            "urls, or ask for fewer environments"
        )
    if len(urls) == 1:  # nothing to choose; to open one robot twice is no mistake by itself
        return Choice(urls, [], token)
    locked: dict[str, int] = {}
    for url in urls:
        if len(locked) < count and (file := _lock(url)) is not None:
            locked[url] = file
    shared = [url for url in urls if url not in locked][: count - len(locked)]
    if shared:
        logger.warning(
            "other environments of this user have %s already; of those that share a robot, the "
            "one that was reset last commands it",
            ", ".join(shared),
        )
    choice = Choice([*locked, *shared], list(locked.values()), token)
    weakref.finalize(owner, choice.give_back)
    return choice


def _lock(url: str) -> int | None:
    """Return a locked file that stands for a robot; None if somebody else has locked it."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    try:
        (state / "remote-env").mkdir(parents=True, exist_ok=True)
        file = os.open(state / "remote-env" / f"robot-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"cannot note which robot of several is taken: {error}; set XDG_STATE_HOME to a folder "
            "that can be written, or give each environment one url"
        ) from error
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file
    os.close(file)
    return None
