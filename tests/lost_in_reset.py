"""Two robots, of which the first is lost in its reset and back while the second still moves."""

import contextlib
import time

from beside import Beside, wait_for
from sample_robots import Gated, Limited

from remote_env.testing import FaultProxy


class Slow(Limited):
    """Its resets last for as long as it is told."""

    is_slow = in_reset = False

    def reset(self, *, seed=None, options=None):
        self.in_reset = True
        while self.is_slow:
            self.progress(0.5)
            time.sleep(0.002)
        return super().reset(seed=seed, options=options)


@contextlib.contextmanager
def lost_in_reset(serve, connect_all):
    """Connect to both; give that, and what makes it so during a call in which the first is reset.

    The first one's episodes have three steps.
    """
    slow, gated = Slow(), Gated()
    with FaultProxy(serve(slow).url) as proxy:
        env = connect_all([proxy.url, serve(gated).url])
        first = env._fleet.slots[0]

        def meddle():
            wait_for(lambda: slow.in_reset)
            proxy.reset_connections()
            wait_for(lambda: first.is_down)
            slow.is_slow = False
            wait_for(lambda: not first.is_down)
            gated.may_go.set()

        def during(call):
            gated.may_go.clear()
            slow.is_slow, slow.in_reset = True, False
            beside = Beside(meddle)
            told = call()
            assert beside.join().error is None
            return told

        yield env, during
