"""What a benchmark runs on, and a network for it that does not pace.

BBR, the default of some systems, paces even on loopback: 4.9 MB take 2 to 4 times as long as
with reno. Some peers do not let anybody choose, so the whole benchmark goes into a network
namespace of its own (``unshare --net``), where reno is the default of every connection. Nothing
outside of it changes. Where that is not allowed, those who can choose use reno, and the report
says so.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

__all__ = [
    "congestion_control",
    "cores",
    "describe",
    "describe_in_words",
    "enter_own_network",
    "has_own_network",
    "note_end",
    "pin",
    "tune",
]

_MARK: Final = "REMOTE_ENV_BENCH_NETWORK"
_CONGESTION: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_OURS: Final = ("remote-robot-env", "websockets", "msgpack", "numpy", "gymnasium")


def enter_own_network() -> None:
    """Run this program again in a network namespace of its own, if that is allowed.

    Call it first in ``main``: it does not return then, but in the new process it does.
    """
    if os.environ.get(_MARK):
        _set_up()
        return
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        return
    command = [unshare, "--net", *(() if os.geteuid() == 0 else ("--map-root-user",))]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        os.environ[_MARK] = "1"
        os.execv(unshare, [*command, sys.executable, *sys.argv])


def has_own_network() -> bool:
    """Whether this process is in a namespace of its own."""
    return bool(os.environ.get(_MARK))


def _set_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = b"lo"
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sh14x", name, 0))
        flags = struct.unpack("16sh14x", answer)[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))
    with contextlib.suppress(OSError):
        _CONGESTION.write_text("reno\n")


def congestion_control() -> str:
    """Return the system's default for new connections here."""
    try:
        return _CONGESTION.read_text().strip()
    except OSError:
        return "unknown"


def tune(sock: socket.socket) -> None:
    """Send at once, and use a congestion control that does not pace, where there is one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name in (b"reno", b"cubic"):
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


# Cores


def cores() -> tuple[int, int] | None:
    """Return two cores, for a client and its server; None if there are no two to choose."""
    if sys.platform != "linux":
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else None


def pin(core: int | None) -> None:
    """Keep this process, and what it starts, on a core; None lets the system choose."""
    if core is not None and sys.platform == "linux":
        os.sched_setaffinity(0, {core})


# What to say


def describe(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return what this runs on, in plain values.

    Args:
        packages: To tell the versions of, beside ours; those that are missing are left out.
    """
    versions = {}
    for name in (*_OURS, *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "congestion control": congestion_control(),
        "own network namespace": has_own_network(),
        "versions": versions,
    }


def note_end(facts: dict[str, Any]) -> None:
    """Add what the load is now; up to two of it are the benchmark's own."""
    facts["load at end"] = os.getloadavg()[0]


def describe_in_words(facts: dict[str, Any]) -> str:
    """Return that as two sentences."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    where = (
        "in a network namespace of its own"
        if facts["own network namespace"]
        else "which those that can choose replace by reno"
    )
    end = f" and {facts['load at end']:.1f} at the end" if "load at end" in facts else ""
    return (
        f"{facts['date']}: {facts['cpu']}, {facts['cores']} cores, load {facts['load']:.1f} at "
        f"the beginning{end}, {facts['kernel']}, {facts['libc']}, congestion control "
        f"{facts['congestion control']} ({where}). "
        f"Python {facts['python']}, {versions}."
    )


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
