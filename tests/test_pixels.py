"""What is done to pictures: compared with what the words say, computed the slow way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.pixels import crop, grey, intrinsics_of, nearest, shrink

SIZES = st.integers(1, 40)


def weights(total, count):
    """How much of each of ``total`` rows lies in each of ``count`` shares, in 1 / count rows."""
    share = np.arange(count)[:, np.newaxis] * total
    row = np.arange(total) * count
    return np.clip(np.minimum(share + total, row + count) - np.maximum(share, row), 0, None)


def mean(image, size):
    height, width = image.shape[:2]
    sums = np.einsum(
        "ir,rcx,jc->ijx", weights(height, size[0]), image.astype(float), weights(width, size[1])
    )
    return sums / (height * width)


@st.composite
def pictures_and_sizes(draw):
    height, width = draw(SIZES), draw(SIZES)
    channels = draw(st.sampled_from([1, 3, 4]))
    seed = draw(st.integers(0, 1000))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return image, (draw(st.integers(1, height)), draw(st.integers(1, width)))


@given(pictures_and_sizes())
def test_each_new_pixel_is_the_mean_of_its_area_rounded(given):
    image, size = given
    shrunk = shrink(image, size)
    assert shrunk.dtype == np.uint8
    assert shrunk.flags.c_contiguous
    assert (shrunk == np.floor(mean(image, size) + 0.5 + 1e-9)).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.float64])
def test_pictures_of_other_dtypes_are_shrunk_too(dtype):
    image = np.random.default_rng(1).integers(0, 30000, (31, 23, 3)).astype(dtype)
    expected = mean(image, (7, 11))
    if np.dtype(dtype).kind != "f":
        expected = np.floor(expected + 0.5 + 1e-9)
    assert np.allclose(shrink(image, (7, 11)), expected, rtol=1e-6)
    assert shrink(image, (7, 11)).dtype == dtype


@pytest.mark.parametrize("size", [(83, 91), (1000, 1250), (1, 1)])
def test_the_brightest_picture_of_a_large_camera_does_not_overflow(size):
    assert (shrink(np.full((2000, 2500, 3), 255, np.uint8), size) == 255).all()


def test_depth_is_never_mixed():
    depth = np.where(np.arange(40) < 20, 1.0, 9.0) * np.ones((30, 1))
    assert set(np.unique(nearest(depth, (7, 13)))) == {1.0, 9.0}


@given(SIZES, SIZES, st.data())
def test_the_nearest_pixel_is_the_one_in_which_the_new_centre_lies(height, width, data):
    size = (data.draw(st.integers(1, height)), data.draw(st.integers(1, width)))
    rows, columns = np.mgrid[:height, :width]
    row, column = nearest(rows, size)[-1, 0], nearest(columns, size)[0, -1]
    assert row == int((size[0] - 0.5) * height / size[0])
    assert column == int((size[1] - 0.5) * width / size[1])


def test_grey_is_the_luma_of_bt_601():
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3), np.uint8)
    luma = image.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(grey(image)[..., 0] - luma).max() <= 0.51
    assert grey(image).shape == (20, 30, 1)
    assert grey(np.full((1, 1, 3), 255, np.uint8))[0, 0, 0] == 255


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_grey_of_other_dtypes(dtype):
    image = np.random.default_rng(2).integers(0, 60000, (5, 6, 3)).astype(dtype)
    expected = image.astype(float) @ [0.299, 0.587, 0.114]
    assert np.allclose(grey(image)[..., 0], expected, atol=1)
    assert grey(image).dtype == dtype


def test_a_crop_is_the_part_that_is_named():
    array = np.arange(48).reshape(6, 8)
    assert crop(array, (1, 2, 3, 4)).tolist() == array[1:4, 2:6].tolist()


K = np.array([[500.0, 2.0, 319.5], [0.0, 510.0, 239.5], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("part", "size"),
    [((0, 0, 480, 640), (84, 84)), ((40, 100, 240, 320), None), ((40, 100, 240, 320), (60, 64))],
)
def test_the_borders_of_the_part_become_the_borders_of_the_picture(part, size):
    corrected = intrinsics_of(K, part, size)
    height, width = size or part[2:]
    for u, v, new_u, new_v in [
        (part[1] - 0.5, part[0] - 0.5, -0.5, -0.5),
        (part[1] + part[3] - 0.5, part[0] + part[2] - 0.5, width - 0.5, height - 0.5),
    ]:
        ray = np.linalg.inv(K) @ [u, v, 1]
        assert np.allclose(corrected @ ray, [new_u, new_v, 1])


def test_what_is_not_changed_has_the_same_intrinsics():
    assert np.allclose(intrinsics_of(K, (0, 0, 480, 640), None), K)
