"""Rendering without a screen: which of MuJoCo's ways works here, and what to install if none does.

EGL first; OSMesa, slower by a third on large pictures, second. MuJoCo's own default on Linux,
GLFW, needs a screen and the main thread, and takes the process down where it has neither.

OpenGL's Python bindings choose their platform when they are first imported, once and for all, so
a failed attempt could not be followed by another: EGL is tried here by hand before.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import sys
from typing import Any, Final, Protocol

from remote_env.errors import ConfigurationError

__all__ = ["GlContext", "find", "make_context", "prepare"]

_ADVICE: Final = (
    "on Debian and Ubuntu: apt-get install --no-install-recommends libegl1 libgl1-mesa-dri "
    "libopengl0"
)
_EGL_PLATFORM_DEVICE_EXT: Final = 0x313F  # of the extension EGL_EXT_platform_device
_MOST_DEVICES: Final = 16


class GlContext(Protocol):
    """A place to render to; belongs to the thread that made it."""

    def make_current(self) -> None:
        """Direct all OpenGL calls of this thread here."""

    def free(self) -> None:
        """Give it back; on the same thread."""


@functools.cache
def find() -> tuple[str, str]:
    """Return how to render, as in ``MUJOCO_GL``, and if there is no way, ``""`` and why not.

    What ``MUJOCO_GL`` says counts.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    if asked in ("0", "off", "false", "disable", "disabled"):
        return "", f"MUJOCO_GL is {asked!r}; set it to 'egl'"
    if asked:
        return asked, ""
    if sys.platform != "linux":
        return ("cgl" if sys.platform == "darwin" else "glfw"), ""
    if _finds_egl():
        return "egl", ""
    if any(_loads(library) for library in ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")):
        return "osmesa", ""
    return "", f"neither EGL nor OSMesa works here; {_ADVICE}"


def prepare() -> None:
    """Let MuJoCo choose the same; to be called before it is imported.

    Where nothing can be rendered it is told so: it would fail to be imported else.
    """
    way, _ = find()
    if "mujoco" not in sys.modules:
        os.environ.setdefault("MUJOCO_GL", way or "disable")


def make_context(height: int, width: int) -> GlContext:
    """Make a context for pictures of at most this size, in pixels; on the calling thread.

    Raises:
        ConfigurationError: If nothing can be rendered here; says what to install.
    """
    way, why_not = find()
    if not way:
        raise ConfigurationError(f"no picture can be rendered: {why_not}")
    try:
        module: Any = importlib.import_module(f"mujoco.{way}")
        context: GlContext = module.GLContext(width, height)
    except Exception as error:
        raise ConfigurationError(
            f"no picture can be rendered by {way}: {error}; {_ADVICE}"
        ) from error
    return context


def _finds_egl() -> bool:
    """Whether EGL has a device that can be initialised, as MuJoCo will ask it to be."""
    if not (_loads("libEGL.so.1") and _loads("libOpenGL.so.0")):
        return False
    egl = ctypes.CDLL("libEGL.so.1")
    address = egl.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    query, display_of = address(b"eglQueryDevicesEXT"), address(b"eglGetPlatformDisplayEXT")
    if not (query and display_of):
        return False
    query_devices = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int)
    )(query)
    get_display = ctypes.CFUNCTYPE(
        ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p
    )(display_of)
    devices, count = (ctypes.c_void_p * _MOST_DEVICES)(), ctypes.c_int()
    if not query_devices(_MOST_DEVICES, devices, ctypes.byref(count)):
        return False
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    displays = (get_display(_EGL_PLATFORM_DEVICE_EXT, d, None) for d in devices[: count.value])
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
