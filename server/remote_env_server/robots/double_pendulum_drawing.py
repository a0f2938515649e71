"""The picture of the double pendulum: a true pinhole camera, drawn in numpy alone.

The camera looks along +y at the plane of motion, from a little above, without yaw or roll.
Everything in sight is a flat shape in one of two planes: the plane of motion, y = 0, or the
floor. So the point of each plane that each pixel sees, and its depth, is computed once; a
picture is then a few signed distances, in metres, in the window around each shape. That a
3-D point is drawn where K and the extrinsics project it holds by construction.

Shapes are drawn thicker than they are (a 15 mm rod is less than a pixel wide in a small
picture) and have the depth of the plane of motion: half a thickness is left out. Floor and
rail have their depths too; the backdrop has none, 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SideCamera"]

_Floats: TypeAlias = NDArray[np.float32]
_Point: TypeAlias = tuple[float, float]
_Colour: TypeAlias = tuple[int, int, int]
_Window: TypeAlias = tuple[slice, slice]

# Where the camera stands and what it must see, in metres and radians, world frame.
_DISTANCE: Final = 3.2
_CAMERA_Z: Final = 0.62
_PITCH: Final = 0.12
_HALF_HEIGHT: Final = 0.82
_MARGIN: Final = 0.24
_FLOOR_Z: Final = -0.45
_FLOOR_END: Final = 2.0

# Shapes, in metres; those of the cart are half its width and half its height.
_CART: Final = (0.11, 0.045)
_WHEEL: Final = 0.021
_LINK: Final = 0.023
_PIN: Final = 0.029
_EDGE: Final = 0.006
_RAIL_Z: Final = -0.083
_RAIL: Final = 0.011
_STOP: Final = 0.018
_LEG: Final = 0.014
_TICK: Final = 0.006
_TICK_EVERY: Final = 0.25

_SKY_TOP: Final = (222, 231, 240)
_SKY_LOW: Final = (247, 249, 251)
_FLOOR_FAR: Final = (236, 239, 242)
_FLOOR_NEAR: Final = (203, 209, 216)
_SHADOW: Final = (96, 104, 116)
_RED: Final = (200, 68, 60)
# Fill and edge.
_STEEL: Final = ((112, 122, 134), (84, 93, 104))
_DARK: Final = ((52, 64, 84), (30, 38, 52))
_WHITE: Final = ((250, 250, 250), (30, 38, 52))
_ORANGE: Final = ((240, 140, 46), (186, 98, 20))
_BLUE: Final = ((38, 140, 190), (18, 98, 140))


@dataclass(frozen=True, slots=True)
class _Plane:
    """A plane of the world, as the pixels see it.

    Attributes:
        across: ``(height, width)`` float32, world x of each pixel's point, metres.
        along: ``(height, 1)`` float32, the plane's other coordinate, metres; falls from the
            top of the picture to the bottom.
        depth: ``(height, 1)`` float32, metres along the optical axis.
        pixel: ``(height, 1)`` float32, the size of a pixel there, metres.
    """

    across: _Floats
    along: _Floats
    depth: _Floats
    pixel: _Floats

    def window(self, low: _Point, high: _Point) -> _Window:
        """Return the rows and columns that hold a rectangle, and a pixel more on each side."""
        height, width = self.across.shape
        upwards = self.along[::-1, 0]
        top = height - int(np.searchsorted(upwards, high[1], side="right")) - 1
        bottom = height - int(np.searchsorted(upwards, low[1])) + 1
        rows = slice(max(0, top), min(height, bottom))
        # Perspective widens the nearer rows: take the wider of the first and the last.
        ends = [self.across[min(max(row, 0), height - 1)] for row in (top, bottom - 1)]
        left = min(int(np.searchsorted(columns, low[0])) for columns in ends) - 1
        right = max(int(np.searchsorted(columns, high[0])) for columns in ends) + 1
        return rows, slice(max(0, left), min(width, right))

    def distance_to_segment(self, window: _Window, start: _Point, end: _Point) -> _Floats:
        """Return each pixel's distance from a line segment, in metres."""
        across = self.across[window] - np.float32(start[0])
        along = self.along[window[0]] - np.float32(start[1])
        dx, dz = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
        length = dx * dx + dz * dz
        if length > 0:
            part = np.clip(across * (dx / length) + along * (dz / length), 0, 1)
            across, along = across - part * dx, along - part * dz
        distance: _Floats = np.sqrt(across * across + along * along)
        return distance

    def distance_to_box(self, window: _Window, centre: _Point, half: _Point) -> _Floats:
        """Return each pixel's distance from a rectangle, in metres; 0 inside."""
        across = np.maximum(np.abs(self.across[window] - np.float32(centre[0])) - half[0], 0)
        along = np.maximum(np.abs(self.along[window[0]] - np.float32(centre[1])) - half[1], 0)
        distance: _Floats = np.sqrt(across * across + along * along)
        return distance


def _plane(
    depth: NDArray[np.floating],
    ray_x: NDArray[np.floating],
    ray_along: NDArray[np.floating],
    camera_along: float,
    focal: float,
) -> _Plane:
    parts = (depth * ray_x, camera_along + depth * ray_along, depth, depth / focal)
    return _Plane(*(part.astype(np.float32) for part in parts))


class SideCamera:
    """Draws cart and links. Immutable once made: safe from any thread.

    Attributes:
        intrinsics: ``(3, 3)`` float64, K in pixels. The centre of the pixel in row v and
            column u is the image point ``(u, v)``, as in OpenCV.
        extrinsics: ``(4, 4)`` float64, camera-to-world, translation in metres; optical frame
            x right, y down, z forward; world x along the rail to the right, y away from the
            camera, z up.
    """

    def __init__(self, height: int, width: int, *, rail: float) -> None:
        """Stand so that the whole rail is in sight, and draw what never moves.

        Args:
            height: Of the picture, pixels.
            width: Of the picture, pixels.
            rail: The farthest position of the cart on either side, metres.
        """
        focal = _DISTANCE * min(0.5 * width / (rail + _MARGIN), 0.5 * height / _HALF_HEIGHT)
        centre_u, centre_v = 0.5 * (width - 1), 0.5 * (height - 1)
        down, forward = sin(_PITCH), cos(_PITCH)
        self.intrinsics = np.array([[focal, 0, centre_u], [0, focal, centre_v], [0, 0, 1.0]])
        self.extrinsics = np.array(
            [
                [1.0, 0.0, 0.0, 0.0],
                [0.0, -down, forward, -_DISTANCE],
                [0.0, -forward, -down, _CAMERA_Z],
                [0.0, 0.0, 0.0, 1.0],
            ]
        )
        # The ray through each pixel, in the world frame, per metre along the optical axis.
        ray_x = (np.arange(width) - centre_u)[np.newaxis] / focal
        ray_down = (np.arange(height) - centre_v)[:, np.newaxis] / focal
        ray_y = forward - down * ray_down
        ray_z = -down - forward * ray_down
        self._motion = _plane(_DISTANCE / ray_y, ray_x, ray_z, _CAMERA_Z, focal)
        drop = _FLOOR_Z - _CAMERA_Z
        is_floor = ray_z * (_FLOOR_END + _DISTANCE) < drop * ray_y
        # Rows above the floor see it far beyond everything that is drawn on it.
        depth = np.where(is_floor, drop / np.where(is_floor, ray_z, 1.0), 1e6)
        self._floor = _plane(depth, ray_x, ray_y, -_DISTANCE, focal)
        self._draw_room(is_floor)
        self._draw_rail(rail)

    def render(self, points: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Draw the plant. Both results are the caller's own.

        Args:
            points: ``(3, 3)`` float64, pivot, joint and tip, one per row, metres, world frame,
                in the plane y = 0.

        Returns:
            The image, ``(height, width, 3)`` uint8 RGB, and the depth, ``(height, width)``
            float32, metres along the optical axis, 0 where there is nothing.
        """
        pivot, joint, tip = ((float(x), float(z)) for x, _, z in points)
        x, axle = pivot[0], _RAIL_Z + _RAIL + _WHEEL
        image, depth = self._image.copy(), self._depth.copy()
        self._shade(image, (min(x - 0.1, joint[0], tip[0]), 0), (max(x + 0.1, joint[0], tip[0]), 0))
        picture = _Picture(self._motion, image, depth)
        picture.line((x - 0.07, axle), (x - 0.07, axle), _WHEEL, _STEEL)
        picture.line((x + 0.07, axle), (x + 0.07, axle), _WHEEL, _STEEL)
        picture.box(pivot, _CART, _DARK)
        picture.line(pivot, joint, _LINK, _ORANGE)
        picture.line(joint, tip, _LINK, _BLUE)
        picture.line(pivot, pivot, _PIN, _WHITE)
        picture.line(joint, joint, _PIN, _WHITE)
        picture.line(tip, tip, _PIN, _BLUE)
        return image, depth

    def _draw_room(self, is_floor: NDArray[np.bool_]) -> None:
        height, width = self._motion.across.shape
        rows = np.linspace(0, 1.6, height)[:, np.newaxis]
        nearness = (_FLOOR_END - self._floor.along) / (_FLOOR_END + 0.8)
        room = np.where(
            is_floor, _mix(_FLOOR_FAR, _FLOOR_NEAR, nearness), _mix(_SKY_TOP, _SKY_LOW, rows)
        )
        self._image = np.repeat(room[:, np.newaxis], width, axis=1).astype(np.uint8)
        self._depth = np.repeat(np.where(is_floor, self._floor.depth, np.float32(0)), width, axis=1)
        self._is_lit = np.ones((height, width), np.float32)

    def _draw_rail(self, rail: float) -> None:
        end = rail + _CART[0] + _STOP
        self._shade(self._image, (-end, 0), (end, 0))
        floor = self._depth.copy()
        picture = _Picture(self._motion, self._image, self._depth)
        for x in (-0.9 * rail, 0.9 * rail):
            picture.line((x, _RAIL_Z), (x, _FLOOR_Z), _LEG, _STEEL)
            picture.line((x - 0.08, _FLOOR_Z), (x + 0.08, _FLOOR_Z), _LEG, _STEEL)
        ticks = int(rail / _TICK_EVERY)
        for x in (_TICK_EVERY * n for n in range(-ticks, ticks + 1)):
            low = _RAIL_Z - (0.045 if x else 0.065)
            picture.line((x, _RAIL_Z), (x, low), _TICK, (_STEEL[1] if x else _RED,) * 2)
        picture.line((-end, _RAIL_Z), (end, _RAIL_Z), _RAIL, _STEEL)
        for x in (-end, end):
            picture.line((x, _RAIL_Z), (x, 0.02), _STOP, (_RED, _RED))
        self._is_lit[self._depth != floor] = 0  # no shadow falls on what stands before the floor

    def _shade(self, image: NDArray[np.uint8], start: _Point, end: _Point) -> None:
        """Darken the floor around a line on it: the shadow of a light straight above."""
        reach = 0.12
        window = self._floor.window((start[0] - reach, -reach), (end[0] + reach, reach))
        distance = self._floor.distance_to_segment(window, start, end)
        shade = np.clip(1 - distance / np.float32(reach), 0, 1)
        _blend(image, window, _SHADOW, 0.5 * shade * shade * self._is_lit[window])


@dataclass(frozen=True, slots=True)
class _Picture:
    """Shapes with an edge, in one plane, painted over an image and its depth."""

    plane: _Plane
    image: NDArray[np.uint8]
    depth: _Floats

    def line(
        self, start: _Point, end: _Point, radius: float, colours: tuple[_Colour, _Colour]
    ) -> None:
        """Paint a line with round ends; a disc if it has no length."""
        low = (min(start[0], end[0]) - radius, min(start[1], end[1]) - radius)
        high = (max(start[0], end[0]) + radius, max(start[1], end[1]) + radius)
        window = self.plane.window(low, high)
        self._paint(window, self.plane.distance_to_segment(window, start, end), radius, colours)

    def box(self, centre: _Point, half: _Point, colours: tuple[_Colour, _Colour]) -> None:
        """Paint a rectangle with round corners."""
        (x, z), (half_x, half_z), corner = centre, half, 0.02
        window = self.plane.window((x - half_x, z - half_z), (x + half_x, z + half_z))
        inner = (half_x - corner, half_z - corner)
        self._paint(window, self.plane.distance_to_box(window, centre, inner), corner, colours)

    def _paint(
        self, window: _Window, distance: _Floats, radius: float, colours: tuple[_Colour, _Colour]
    ) -> None:
        # How many pixels each pixel's centre is inside; half a pixel is blended on either side.
        inside = (np.float32(radius) - distance) / self.plane.pixel[window[0]]
        edge = np.float32(_EDGE) / self.plane.pixel[window[0]]
        fill, rim = colours
        _blend(self.image, window, rim, np.clip(inside + np.float32(0.5), 0, 1))
        _blend(self.image, window, fill, np.clip(inside - edge + np.float32(0.5), 0, 1))
        depth = self.depth[window]
        np.copyto(depth, self.plane.depth[window[0]], where=inside > 0)


def _blend(image: NDArray[np.uint8], window: _Window, colour: _Colour, share: _Floats) -> None:
    """Mix a colour into a window of an image; ``share`` of 1 replaces what was there."""
    under = image[window].astype(np.float32)
    under += share[..., np.newaxis] * (np.array(colour, np.float32) - under)
    under += np.float32(0.5)
    image[window] = under.astype(np.uint8)


def _mix(first: _Colour, second: _Colour, share: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return ``(height, 3)`` colours between two; ``share`` is ``(height, 1)``, clipped."""
    a, b = np.array(first, float), np.array(second, float)
    mixed: NDArray[np.float64] = a + np.clip(share, 0, 1) * (b - a)
    return mixed
