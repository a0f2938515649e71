"""What a step carries, and a robot that carries it and costs nothing."""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.spec import Mode
from remote_env_server import CameraConfig, ProprioConfig, Robot

__all__ = ["JOINTS", "PAYLOADS", "Arrays", "Rig", "Sizes", "observation_of"]

Arrays: TypeAlias = dict[str, NDArray[Any]]
# Height, width and whether it has depth (and then its calibration), of each camera.
Sizes: TypeAlias = tuple[tuple[int, int, bool], ...]

PAYLOADS: Final[dict[str, Sizes]] = {
    "P0": (),
    "P3": ((84, 84, False),),
    "P1": ((480, 640, False),),
    "P2": ((480, 640, True), (720, 1280, False)),
}
JOINTS: Final = ("joint_pos", "joint_vel", "joint_torque")


class Rig(Robot):
    """Cameras and joints that cost nothing: what there is was published once, by the reset.

    Cameras declare no rate, so each step carries all of it.
    """

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    control_hz = 100.0

    def __init__(self, sizes: Sizes) -> None:
        """Declare cameras of these heights and widths."""
        self.sizes = sizes
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the cameras."""
        return [
            CameraConfig(f"cam{i}", h, w, has_depth=depth, may_repeat=True)
            for i, (h, w, depth) in enumerate(self.sizes)
        ]

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare three streams."""
        return [ProprioConfig(name, 7) for name in JOINTS]

    def reset(self) -> None:  # type: ignore[override]
        """Publish everything once."""
        arrays = observation_of(self.sizes)
        for i, _ in enumerate(self.sizes):
            kinds = ("image", "depth", "intrinsics", "extrinsics")
            given: dict[str, Any] = {kind: arrays.get(f"cam{i}/{kind}") for kind in kinds}
            self.update_camera(f"cam{i}", **given)
        for name in JOINTS:
            self.update_proprio(name, arrays[name])

    def apply_action(self, action: Any) -> None:
        """Do nothing."""

    def hold(self) -> None:
        """Do nothing; it cannot move."""


def observation_of(sizes: Sizes) -> Arrays:
    """Return what a step carries, the same in every process, by the names of the streams."""
    rng = np.random.default_rng(1)
    arrays: Arrays = {}
    for i, (height, width, has_depth) in enumerate(sizes):
        arrays[f"cam{i}/image"] = rng.integers(0, 256, (height, width, 3), np.uint8)
        if has_depth:
            arrays[f"cam{i}/depth"] = rng.random((height, width), np.float32)
            arrays[f"cam{i}/intrinsics"] = np.diag([500.0, 500.0, 1.0])
            arrays[f"cam{i}/extrinsics"] = np.eye(4)
    for name in JOINTS:
        arrays[name] = rng.random(7, np.float32)
    return dict(sorted(arrays.items(), key=lambda item: item[1].nbytes))  # pictures last
