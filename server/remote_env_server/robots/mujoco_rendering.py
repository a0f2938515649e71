"""Pictures of a MuJoCo scene: colour and depth in one pass, with the calibration that they have.

The camera's matrices are those of the very frustum that was rendered, so they are true for every
camera that MuJoCo knows: fixed, moving, tracking, free, or with a lens of its own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env_server.robots.headless import make_context

__all__ = ["Capture", "MujocoRenderer", "Quality", "load_model"]

logger = logging.getLogger(__name__)

Quality = Literal["fast", "fine"]

# Bodies, lights and markers that a scene may have; more are left out by MuJoCo.
_MOST_GEOMS: Final = 10_000
# Of the background, at the top and at the bottom.
_SKY: Final = ((148, 165, 186), (214, 224, 234))
_GL_RENDERER: Final = 0x1F01


def load_model(path: Path, *, quality: Quality, height: int, width: int) -> Any:
    """Compile an MJCF file, with room for pictures of this size.

    Args:
        path: Of the file; what it includes is looked for beside it.
        quality: ``"fast"`` renders without shadows and smoothed edges, four to fourteen times
            as fast on a CPU; ``"fine"`` leaves both as the model wants them.
        height: Of the pictures, in pixels.
        width: Of the pictures, in pixels.

    Raises:
        ConfigurationError: With MuJoCo's word on what is wrong in the file.
    """
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}; give the path of an MJCF file")
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        if quality == "fast":
            spec.visual.quality.offsamples = 0
            spec.visual.quality.shadowsize = 0
        spec.visual.global_.offheight = max(height, 1)
        spec.visual.global_.offwidth = max(width, 1)
        return spec.compile()
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"MuJoCo cannot load {path}: {str(error).strip()}") from error


@dataclass(frozen=True, slots=True, eq=False)
class Capture:
    """One picture, and where it was taken from.

    Attributes:
        image: ``(height, width, 3)`` uint8 RGB.
        depth: ``(height, width)`` float32, m along the optical axis, 0 where there is nothing.
        intrinsics: ``(3, 3)`` float64, K in pixels. The centre of the pixel in row v and column
            u is at (u, v).
        extrinsics: ``(4, 4)`` float64, optical frame (x right, y down, z forward) to world, m.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    extrinsics: NDArray[np.float64]


class MujocoRenderer:
    """Renders pictures of one size. Belongs to the thread that made it, ``close`` included."""

    def __init__(self, model: Any, height: int, width: int) -> None:
        """Make a place to render to; about 50 ms.

        Args:
            model: Loaded with ``load_model``, for this size at least.
            height: In pixels.
            width: In pixels.

        Raises:
            ConfigurationError: If nothing can be rendered here; says what to install.
        """
        self._model = model
        self._context = make_context(height, width)
        self._context.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=_MOST_GEOMS)
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._viewport = mujoco.MjrRect(0, 0, width, height)
        self._render_context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._render_context)
        # 1 at the near plane and 0 at the far one: precise where it matters.
        self._render_context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        self._image = np.empty((height, width, 3), np.uint8)
        self._depth = np.empty((height, width), np.float32)
        shade = np.linspace(_SKY[1], _SKY[0], height)  # OpenGL begins below
        self._background = np.repeat(shade, width, axis=0).astype(np.uint8)

    def render(self, data: Any, camera: int) -> Capture:
        """Render what a camera sees.

        Args:
            data: With the positions of bodies and cameras computed.
            camera: Its number in the model; -1 is the free camera, which sees all of it.

        Returns:
            The capture; its arrays are overwritten by the next call.
        """
        if camera < 0:
            mujoco.mjv_defaultFreeCamera(self._model, self._camera)
        else:
            self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._option,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        mujoco.mjr_render(self._viewport, self._scene, self._render_context)
        mujoco.mjr_readPixels(self._image, self._depth, self._viewport, self._render_context)
        nowhere = np.flatnonzero(self._depth == 0)
        if nowhere.size:
            self._image.reshape(-1, 3)[nowhere] = self._background[nowhere]
        eye = _Eye.of(self._scene, self._image.shape[1] / self._image.shape[0])
        return Capture(
            self._image[::-1],
            _metres(self._depth, eye)[::-1],
            eye.intrinsics(*self._depth.shape),
            eye.extrinsics,
        )

    @property
    def device(self) -> str:
        """What renders: a graphics card, or ``llvmpipe``, which is the CPU."""
        from OpenGL import GL

        return str(GL.glGetString(_GL_RENDERER).decode())

    def close(self) -> None:
        """Give everything back. Idempotent; on the thread that made it."""
        if self._render_context is not None:
            self._render_context.free()
            self._context.free()
            self._render_context = None


@dataclass(frozen=True, slots=True, eq=False)
class _Eye:
    """The frustum that a scene is rendered through: at ``near``, in metres, y up."""

    near: float
    far: float
    top: float
    bottom: float
    left: float
    right: float
    extrinsics: NDArray[np.float64]

    @classmethod
    def of(cls, scene: Any, aspect: float) -> _Eye:
        """Take it from a scene, whose two eyes are a stereo pair around the middle.

        Args:
            scene: Updated.
            aspect: Width of the picture by its height; where the camera has no width of its
                own, its pixels are square.
        """
        pair = scene.camera

        def middle(name: str) -> Any:
            return (np.asarray(getattr(pair[0], name)) + np.asarray(getattr(pair[1], name))) / 2

        top, bottom = float(middle("frustum_top")), float(middle("frustum_bottom"))
        half = float(middle("frustum_width")) or aspect * (top - bottom) / 2
        centre = float(middle("frustum_center"))
        forward, up = middle("forward").astype(np.float64), middle("up").astype(np.float64)
        world_from_camera = np.eye(4)
        world_from_camera[:3, 0] = np.cross(forward, up)
        world_from_camera[:3, 1] = -up
        world_from_camera[:3, 2] = forward
        world_from_camera[:3, 3] = middle("pos")
        return cls(
            float(middle("frustum_near")),
            float(middle("frustum_far")),
            top,
            bottom,
            centre - half,
            centre + half,
            world_from_camera,
        )

    def intrinsics(self, height: int, width: int) -> NDArray[np.float64]:
        """Return K of a picture of this size: pixels over metres at a distance of 1."""
        across, down = width / (self.right - self.left), height / (self.top - self.bottom)
        return np.array(
            [
                [across * self.near, 0.0, -across * self.left - 0.5],
                [0.0, down * self.near, down * self.top - 0.5],
                [0.0, 0.0, 1.0],
            ]
        )


def _metres(buffer: NDArray[np.float32], eye: _Eye) -> NDArray[np.float32]:
    """Turn a depth buffer, 1 at the near plane and 0 at the far one, into metres.

    Source:
        The perspective projection is linear in 1 / z (Akenine-Moeller et al., Real-Time
        Rendering, 4th ed., section 4.7.2).
    """
    nearness = buffer * np.float32(1 / eye.near - 1 / eye.far) + np.float32(1 / eye.far)
    depth: NDArray[np.float32] = np.where(buffer > 0, 1 / nearness, np.float32(0))
    return depth
