"""A known point lies where the corrected intrinsics project it, whatever the camera was asked."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from remote_env import StreamRequest
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.compressing import decode_array, encode_array
from remote_env_server import LocalRobotEnv
from remote_env_server.robots import headless
from remote_env_server.robots.arm import ArmConfig, ArmRobot

WAY, WHY_NOT = headless.find()
pytestmark = pytest.mark.skipif(not WAY, reason=WHY_NOT)

# The marker is lit from one side, which moves its middle by a quarter of a pixel of the camera. A
# picture shrunk by s that forgot that pixels have centres is 0.5 (1 - s) off: 0.37 at s = 0.26.
LIT = 0.3

FORMS = {
    "as it is": {},
    "resized": {"size": (84, 84)},
    "halved": {"size": (120, 160)},
    "cropped": {"crop": (20, 40, 200, 240)},
    "cropped and resized": {"crop": (20, 41, 199, 240), "size": (70, 80)},
    "and encoded": {"crop": (20, 41, 199, 240), "size": (70, 80), "codec": "jpeg", "quality": 95},
}


def middle_of_marker(image):
    """The middle of the green marker of the goal: column and row, weighted by how green it is."""
    red, green, blue = np.moveaxis(image.astype(float), -1, 0)
    greenness = np.clip(np.minimum(green - red, green - blue) - 25, 0, None)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    assert (greenness > 0).sum() >= 4
    return [(greenness * axis).sum() / greenness.sum() for axis in (columns, rows)]


def image_scale(form):
    _, _, height, width = form.get("crop", (0, 0, 240, 320))
    down, across = form.get("size", (height, width))
    return max(down / height, across / width)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("camera", ["front", "side"])
@pytest.mark.parametrize("goal", [[0.45, 0.08, 0.12], [0.34, -0.06, 0.1]])
def test_a_known_point_is_where_the_asked_picture_shows_it(camera, goal, form):
    streams = {
        f"{camera}/image": StreamRequest(**FORMS[form]),
        f"{camera}/depth": None,
        f"{camera}/intrinsics": None,
    }
    with LocalRobotEnv(ArmRobot(ArmConfig(image_size=(240, 320))), streams=streams) as env:
        env.reset(seed=0, options={"goal": goal})
        observation, _, _, _, info = env.step(np.array([0.3, 0.4, 0.3, 0], np.float32))
    calibration = info["remote"]["cameras"][camera]
    intrinsics = observation[f"{camera}/intrinsics"]
    x, y, z = (np.linalg.inv(calibration["extrinsics"]) @ [*goal, 1.0])[:3]
    u, v, _ = intrinsics @ [x / z, y / z, 1]
    column, row = middle_of_marker(observation[f"{camera}/image"])
    near = LIT * image_scale(FORMS[form]) + 0.15
    assert abs(column - u) < near
    assert abs(row - v) < near
    # The marker's core, 8 mm in radius, is in front of its centre; nearby is the arm or the floor.
    depth = observation[f"{camera}/depth"]
    assert depth.shape == observation[f"{camera}/image"].shape[:2]
    assert depth[round(v), round(u)] == pytest.approx(z - 0.008, abs=2.5e-2)


@pytest.mark.parametrize("quality", [85, 90])
def test_a_picture_of_the_arm_is_as_near_as_is_said(quality):
    streams = ["front/image", "side/image", "wrist/image"]
    with LocalRobotEnv(ArmRobot(ArmConfig(image_size=(480, 640))), streams=streams) as env:
        observation, _ = env.reset(seed=1)
    for image in observation.values():
        encoded = encode_array("jpeg", image, quality=quality)
        decoded = np.empty_like(image)
        decode_array(ArraySpec("a", image.dtype, image.shape, "jpeg"), encoded, decoded)
        error = decoded.astype(float) - image
        assert 10 * np.log10(255**2 / (error**2).mean()) > (40.0 if quality == 85 else 43.5)
        assert np.abs(error).max() < 90
        assert encoded.nbytes * 25 < image.nbytes
