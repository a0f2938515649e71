"""What several robots have in common: calls at the same time, errors with a url, equal spaces."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import gymnasium
from gymnasium import spaces

from remote_env.errors import ConfigurationError, RemoteEnvError

__all__ = ["all_at_once", "check_spaces", "check_urls", "naming"]

T = TypeVar("T")

_PORTS: Final = {"ws": 80, "wss": 443}  # RFC 6455, section 3


def check_urls(urls: Sequence[str]) -> None:
    """Refuse what is no list of urls.

    Raises:
        ConfigurationError: If it is none, is empty, or has a robot twice.
    """
    if isinstance(urls, str) or not isinstance(urls, Sequence) or not urls:
        raise ConfigurationError(f"urls must be a list of at least one url, not {urls!r:.80}")
    known: dict[object, str] = {}
    for url in urls:
        if not isinstance(url, str):
            raise ConfigurationError(f"urls must be text such as ws://robot:8765, not {url!r:.80}")
        other = known.setdefault(_robot_at(url), url)
        if other is not url or list(urls).count(url) > 1:
            raise ConfigurationError(
                f"{url} comes twice{'' if other == url else f', also as {other}'}; each robot "
                "can be commanded once, so serve another one at a port of its own"
            )


def _robot_at(url: str) -> object:
    """Return the same for urls that are spelled in two ways and are one robot."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # who connects says what is wrong with it
        return url
    if parts.scheme not in _PORTS:
        return url
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/")


def check_spaces(
    urls: Sequence[str], envs: Sequence[gymnasium.Env[Any, Any]], *, hint: str
) -> None:
    """Refuse robots that no batch can hold.

    Args:
        urls: Of the robots.
        envs: The same.
        hint: How to choose streams, after a blank.

    Raises:
        ConfigurationError: If two have different spaces; names them, and what differs.
    """
    first = envs[0]
    for url, env in zip(urls, envs, strict=True):
        for name in ("observation_space", "action_space"):
            here, there = getattr(first, name), getattr(env, name)
            if here != there:
                raise ConfigurationError(
                    f"the robots at {urls[0]} and {url} have different spaces: "
                    f"{name}{_difference(here, there)}. Choose the same streams=[...] of "
                    f"both{hint}, or use one vector environment for each kind of robot"
                )


def _difference(here: spaces.Space[Any], there: spaces.Space[Any]) -> str:
    """Say in what two spaces differ: in the first key, if both are a Dict."""
    if isinstance(here, spaces.Dict) and isinstance(there, spaces.Dict):
        for key in dict.fromkeys([*here.spaces, *there.spaces]):
            if here.spaces.get(key) != there.spaces.get(key):
                mine, other = here.spaces.get(key, "missing"), there.spaces.get(key, "missing")
                return f"[{key!r}] is {mine} and {other}"
    return f" is {here} and {there}"


@contextlib.contextmanager
def naming(url: str) -> Iterator[None]:
    """Put the url of a robot into the message of an error that does not name it."""
    try:
        yield
    except RemoteEnvError as error:
        if url not in str(error):
            error.args = (f"{url}: {error}",)
        raise


def all_at_once(
    calls: Sequence[Callable[[], T]],
    *,
    or_else: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> list[T]:
    """Make calls on threads of their own, and return what they returned.

    Args:
        calls: Each of which ends by itself.
        or_else: Makes them end soon; called if waiting for them is interrupted.
        timeout: For all of them, in seconds.

    Raises:
        TimeoutError: If that was too little.
        BaseException: What the first of them raised that failed; all have ended then.
    """
    if len(calls) == 1 and timeout is None:
        return [calls[0]()]
    futures: list[Future[T]] = [Future() for _ in calls]
    for call, future in zip(calls, futures, strict=True):
        threading.Thread(
            target=_call, args=(call, future), name="remote-env vector", daemon=True
        ).start()
    try:
        if wait(futures, timeout).not_done:
            raise TimeoutError
    except BaseException:
        or_else()
        raise
    return [future.result() for future in futures]


def _call(call: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
