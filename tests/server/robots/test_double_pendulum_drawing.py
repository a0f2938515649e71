"""The double pendulum's camera, against its own matrices."""

from __future__ import annotations

import numpy as np
import pytest

from remote_env_server.robots.double_pendulum_drawing import SideCamera
from remote_env_server.robots.double_pendulum_dynamics import DoublePendulumDynamics


def projected(camera, point):
    """Return column, row and depth of a point in the world, by the textbook."""
    in_camera = np.linalg.inv(camera.extrinsics) @ [*point, 1.0]
    u, v, w = camera.intrinsics @ in_camera[:3]
    return u / w, v / w, in_camera[2]


POSES = [(0.0, 0.0, 0.0), (0.6, 0.4, -0.45), (-0.9, -0.3, 0.2), (0.25, 2.0, 3.0)]


@pytest.mark.parametrize(("height", "width"), [(480, 640), (300, 300), (240, 600)])
@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("which", [0, 1, 2], ids=["pivot", "joint", "tip"])
def test_points_are_drawn_where_the_camera_matrices_project_them(pose, which, height, width):
    camera = SideCamera(height, width, rail=1.0)
    points = DoublePendulumDynamics().points(*pose)
    image, depth = camera.render(points)
    u, v, distance = projected(camera, points[which])

    colour = image[round(v), round(u)]
    rows, columns = np.nonzero((image == colour).all(axis=-1))
    is_near = np.hypot(rows - v, columns - u) < 0.022 * camera.intrinsics[0, 0] / distance

    assert tuple(colour) == [(250, 250, 250), (250, 250, 250), (38, 140, 190)][which]
    assert depth[round(v), round(u)] == pytest.approx(distance, abs=2e-3)
    centre = columns[is_near].mean(), rows[is_near].mean()
    np.testing.assert_allclose(centre, (u, v), rtol=0, atol=0.35)


def test_a_depth_pixel_deprojects_onto_the_plane_of_motion_or_the_floor():
    camera = SideCamera(120, 160, rail=1.0)
    _, depth = camera.render(DoublePendulumDynamics().points(0.2, 0.3, -0.2))
    rows, columns = np.nonzero(depth)
    pixels = np.stack([columns, rows, np.ones_like(rows)])

    rays = np.linalg.inv(camera.intrinsics) @ pixels * depth[rows, columns]
    world = camera.extrinsics @ np.vstack([rays, np.ones(len(rows))])

    is_on_plane = np.abs(world[1]) < 1e-5
    is_on_floor = np.abs(world[2] + 0.45) < 1e-5
    assert (is_on_plane | is_on_floor).all()
    assert is_on_plane.sum() > 200
    assert is_on_floor.sum() > 200


def test_the_camera_frame_is_right_handed():
    rotation = SideCamera(96, 128, rail=1.0).extrinsics[:3, :3]

    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_nothing_is_unknown_but_the_backdrop():
    _, depth = SideCamera(96, 128, rail=1.0).render(DoublePendulumDynamics().points(0, 0, 0))

    assert depth[0].max() == 0
    assert depth[-1].min() > 2
