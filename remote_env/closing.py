"""The end of a session, when nobody refers to it any more or another thread is in a call."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Final

from remote_env.channel import Channel
from remote_env.turns import Turns

__all__ = ["close_soon", "take_last_turn"]

logger = logging.getLogger(__name__)

# How long closing waits for the call of another thread, in seconds: to end by itself, to give up,
# and once its link is gone.
_PATIENCE: Final = (1.0, 0.5, 0.3)


def close_soon(pid: int, close: Callable[[], object]) -> None:
    """Close what nobody refers to any more, for a finalizer.

    On a thread of its own, because the collector runs on any thread, also on one that
    is in the middle of a call. Not in a fork, where it is the parent's.
    """
    if os.getpid() != pid:
        return
    try:
        threading.Thread(target=close, name="remote-env closing", daemon=True).start()
    except RuntimeError:  # the interpreter ends, and nobody else runs
        close()


def take_last_turn(turns: Turns, channel: Channel) -> bool:
    """Take a turn, if need be from another call; takes at most about two seconds.

    One that is parked is taken at once: nobody is in a call.

    Returns:
        Whether that went. If not, the other call ends the session as soon as it looks.
    """
    if turns.is_mine:
        channel.give_up()
        return False
    to_end, to_give_up, to_fail = _PATIENCE
    if turns.try_take("close", to_end, may_be_parked=True):
        return True
    logger.info("closing %s in the middle of %s", channel.url, turns.going_on())
    channel.give_up()
    if turns.try_take("close", to_give_up, may_be_parked=True):
        return True
    channel.break_link()
    return turns.try_take("close", to_fail, may_be_parked=True)
