"""Run pytest, and give what fails further tries where the host took time from the machine.

    python tests/tries.py -n 2 -m realtime

Tests of real time have bounds that any machine keeps while it runs. A host that has sold its cores
twice stops a virtual machine for milliseconds, hundreds of times in a second and for minutes on
end (20 % of both cores, seen for half an hour; single pauses of 150 ms): periods end late then,
and streams are old. So what fails has a second try, alone, as soon as the host leaves the machine
its cores, and three more if it took some of them during the try that failed. All that failed stays
in sight. A test that fails five times, or twice on a quiet machine, has failed.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

MOST_TRIES = 5
# Of all cores: what a host takes on quiet days in a whole run, and of what a few tests, alone, are
# not likely to hit.
SHARE, LITTLE = 0.01, 0.05
FAILED = 1  # what pytest returns if tests ran and some failed
AGAIN = ("-n", "0", "--last-failed", "--last-failed-no-failures", "none")


def stolen_time() -> float:
    """Return the seconds, of all cores, that the host gave to others since the machine started.

    It is 0.0 where nobody says: without a host, and on other systems than Linux. See proc_stat(5).
    """
    try:
        with open("/proc/stat") as file:
            return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return 0.0


class Watch:
    """How much of the machine the host takes, from now on."""

    def __init__(self) -> None:
        self._began_at, self._stolen = time.monotonic(), stolen_time()

    def share(self) -> float:
        """Return it as a part of all cores."""
        cores = os.cpu_count() or 1
        lasted = max(time.monotonic() - self._began_at, 1e-9)
        return (stolen_time() - self._stolen) / (cores * lasted)


def wait_for_quiet(most: float = 180.0, during: float = 3.0) -> None:
    """Wait until the host leaves the machine alone for ``during`` s, ``most`` s at most."""
    until = time.monotonic() + most
    while time.monotonic() < until:
        watch = Watch()
        time.sleep(during)
        if (share := watch.share()) <= LITTLE:
            return
        say(f"the host takes {share:.0%} of this machine: waiting until it does not")


def run_with_tries(
    arguments: Sequence[str], *, most_wait: float = 180.0, quiet: float = 3.0
) -> int:
    """Return what pytest returned in the end, for these arguments of it."""
    for number in range(1, MOST_TRIES + 1):
        watch = Watch()
        again = AGAIN if number > 1 else ()
        code = subprocess.call([sys.executable, "-m", "pytest", *arguments, *again])
        share = watch.share()
        if code != FAILED or (number > 1 and share <= SHARE) or number == MOST_TRIES:
            break
        say(f"the host took {share:.0%} of this machine meanwhile; trying again what failed")
        wait_for_quiet(most_wait, quiet)
    return code


def say(what: str) -> None:
    print(f"tries: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(run_with_tries(sys.argv[1:]))
