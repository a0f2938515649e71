"""Fewer bytes and back: what is lost is within what is said, and damage is told from arrays."""

import contextlib

import lz4.block
import numpy as np
import pytest
import simplejpeg
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.protocol import compressing
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.compressing import (
    available_codecs,
    check_codec,
    decode_array,
    encode_array,
    fits_codec,
)

PICTURE = ArraySpec("cam/image", np.dtype(np.uint8), (48, 64, 3), "jpeg")
GREY = ArraySpec("cam/image", np.dtype(np.uint8), (48, 64, 1), "jpeg")
DEPTH = ArraySpec("cam/depth", np.dtype(np.float32), (48, 64), "depth16")
IN_MM = ArraySpec("cam/depth", np.dtype(np.uint16), (48, 64), "depth16")


def synthetic(channels=3):
    """Slopes, a checkerboard of strong colours, and noise of 2 of 255: what is hard for JPEG."""
    rows, columns = np.mgrid[:240, :320]
    waves = (np.sin(columns / 9) * np.cos(rows / 13) + 1) * 127
    image = np.stack([columns * 255 / 319, rows * 255 / 239, waves], -1)
    image[(columns // 40 + rows // 40) % 2 == 0] = (220, 30, 40)
    image += np.random.default_rng(0).normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)[..., :channels].copy()


def back(spec, array, *, quality=85):
    out = np.empty(spec.shape, spec.dtype)
    decode_array(spec, encode_array(spec.codec, array, quality=quality), out)
    return out


def spec_of(array, codec):
    return ArraySpec("cam", array.dtype, array.shape, codec)


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


@pytest.mark.parametrize(("quality", "least", "most"), [(85, 29.0, 110), (90, 40.0, 16)])
def test_a_jpeg_is_as_near_as_is_said(quality, least, most):
    image = synthetic()
    decoded = back(spec_of(image, "jpeg"), image, quality=quality)
    assert psnr(image, decoded) > least
    assert np.abs(image.astype(int) - decoded).max() < most


def test_a_jpeg_of_one_channel_is_near_too():
    image = synthetic(1)
    assert psnr(image, back(spec_of(image, "jpeg"), image)) > 38.0


def test_a_better_quality_is_larger():
    sizes = [encode_array("jpeg", synthetic(), quality=q).nbytes for q in (20, 60, 85, 95)]
    assert sizes == sorted(set(sizes))


def test_what_is_encoded_is_read_only():
    assert not encode_array("jpeg", synthetic(), quality=85).flags.writeable
    assert not encode_array("depth16", np.ones((4, 4), np.float32), quality=0).flags.writeable


depths = hnp.arrays(
    np.float32, DEPTH.shape, elements=st.floats(0, 65.5, width=32), fill=st.just(0.0)
)


@given(depths)
def test_depth_is_half_a_millimetre_off_at_most(depth):
    error = np.abs(back(DEPTH, depth).astype(float) - depth)
    assert (error <= 0.0005 + depth * 2.0**-23).all()


@given(hnp.arrays(np.uint16, IN_MM.shape))
def test_depth_in_millimetres_is_lossless(depth):
    assert (back(IN_MM, depth) == depth).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_what_is_no_depth_is_unknown_and_what_is_far_is_at_the_end(dtype):
    depth = np.zeros((2, 4), dtype)
    depth[0] = [0.0, np.nan, -1.0, -np.inf]
    depth[1] = [0.0004, 65.5, 100.0, np.inf]
    decoded = back(spec_of(depth, "depth16"), depth)
    assert decoded[0].tolist() == [0, 0, 0, 0]
    assert decoded[1].tolist() == [0, *np.array([65.5, 65.535, 65.535], dtype).tolist()]
    assert decoded.dtype == dtype


def test_a_depth_that_overflows_in_millimetres_is_far():
    depth = np.full((1, 1), 1e300)
    assert back(spec_of(depth, "depth16"), depth)[0, 0] == 65.535


@pytest.mark.parametrize(
    ("codec", "dtype", "shape", "is_depth", "fits"),
    [
        ("jpeg", np.uint8, (4, 4, 3), False, True),
        ("jpeg", np.uint8, (4, 4, 1), False, True),
        ("jpeg", np.uint8, (4, 4, 4), False, False),
        ("jpeg", np.uint16, (4, 4, 3), False, False),
        ("jpeg", np.uint8, (4, 3), True, False),
        ("depth16", np.float32, (4, 4), True, True),
        ("depth16", np.uint16, (4, 4), True, True),
        ("depth16", np.int32, (4, 4), True, False),
        ("depth16", np.float32, (4, 4, 3), False, False),
        ("raw", np.int32, (4, 4), True, True),
    ],
)
def test_what_can_be_encoded(codec, dtype, shape, is_depth, fits):
    assert fits_codec(codec, ArraySpec("a", np.dtype(dtype), shape), is_depth=is_depth) is fits


# Damage and bombs


def assert_refused(spec, data):
    out = np.empty(spec.shape, spec.dtype)
    with pytest.raises(RemoteProtocolError):
        decode_array(spec, np.frombuffer(data, np.uint8), out)


def jpeg_of(image, **options):
    channels = image.shape[-1]
    colours = {"colorspace": "GRAY", "colorsubsampling": "Gray"} if channels == 1 else {}
    return simplejpeg.encode_jpeg(image, **(colours | options))


IMAGE = synthetic()[:48, :64].copy()
JPEG = jpeg_of(IMAGE)


@pytest.mark.parametrize("shape", [(48, 65, 3), (4800, 6400, 3), (48, 64, 1), (1, 1, 3)])
def test_a_jpeg_of_another_shape_is_not_decoded(shape, monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    assert_refused(PICTURE, jpeg_of(np.zeros(shape, np.uint8)))


def test_a_jpeg_that_says_another_size_is_not_decoded(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    at = JPEG.index(b"\xff\xc0") + 5
    assert_refused(PICTURE, JPEG[:at] + b"\xff\xff\xff\xff" + JPEG[at + 4 :])


def scan_of(jpeg):
    return jpeg.index(b"\xff\xda")


def test_a_jpeg_with_many_scans_is_not_decoded(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    scan = JPEG[scan_of(JPEG) : -2]
    assert_refused(PICTURE, JPEG[:-2] + 10 * scan + JPEG[-2:])


def test_a_progressive_jpeg_is_not_decoded(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    assert_refused(PICTURE, JPEG.replace(b"\xff\xc0", b"\xff\xc2", 1))


# A marker without a length, then what a decoder takes for another frame and we took for a length.
SECOND_FRAME = b"\xff\xd0\xff\xc0" + bytes(0xFFC0 - 2)
PROGRESSIVE = b"\xff\xc2\x00\x11" + bytes(15)


@pytest.mark.parametrize(
    "hidden", [SECOND_FRAME, PROGRESSIVE, b"\xff\xd0", b"\xff\xff", b"\xff\xd8", b"\x00"]
)
def test_nothing_can_be_hidden_in_front_of_the_picture(hidden, monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    at = JPEG.index(b"\xff\xc0")
    assert_refused(PICTURE, JPEG[:at] + hidden + JPEG[at:])


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 10, 100, 400, -1, -2, -100])
def test_a_jpeg_that_is_cut_is_refused(cut):
    assert_refused(PICTURE, JPEG[:cut])


def test_depth_that_expands_to_more_is_refused():
    assert_refused(DEPTH, lz4.block.compress(bytes(64 << 20), store_size=False))


def test_depth_that_expands_to_less_is_refused():
    assert_refused(DEPTH, lz4.block.compress(bytes(2 * 48 * 64 - 1), store_size=False))


ENCODED = {
    "jpeg": (PICTURE, JPEG),
    "grey": (GREY, jpeg_of(IMAGE[..., :1].copy())),
    "depth16": (DEPTH, bytes(encode_array("depth16", np.ones((48, 64), np.float32), quality=0))),
}


@pytest.mark.parametrize("which", ENCODED)
@given(st.data())
def test_damage_is_an_array_or_a_protocol_error_and_nothing_else(which, data):
    spec, whole = ENCODED[which]
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    begin, end = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(damaged))])))
    if data.draw(st.booleans()):
        del damaged[begin:end]
    decode_or_refuse(spec, bytes(damaged))


@pytest.mark.parametrize("which", ENCODED)
@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff\xd8\xff\xd9")
@example(b"\xff\xd8\xff\xda\x00\x02\xff\xd9")
@example(b"\xff\xd8\xff\xc0\x00\x02\xff\xd9")
def test_noise_is_a_protocol_error(which, noise):
    decode_or_refuse(ENCODED[which][0], noise)


def decode_or_refuse(spec, data):
    room = np.zeros(spec.shape[0] * int(np.prod(spec.shape[1:])) + 64, spec.dtype)
    guard = room.size - 64
    room[guard:] = 77
    with contextlib.suppress(RemoteProtocolError):
        decode_array(spec, np.frombuffer(data, np.uint8), room[:guard].reshape(spec.shape))
    assert (room[guard:] == 77).all()  # nothing is written behind the array


# Libraries that are not there


@pytest.fixture
def bare(monkeypatch):
    """A machine without the extra."""
    monkeypatch.setattr(compressing.importlib.util, "find_spec", lambda name: None)
    available_codecs.cache_clear()
    yield
    monkeypatch.undo()
    available_codecs.cache_clear()


def test_all_codecs_are_there_with_the_extra():
    assert available_codecs() == ("raw", "jpeg", "depth16")


def test_without_the_extra_there_is_raw(bare):
    assert available_codecs() == ("raw",)
    check_codec("raw")


@pytest.mark.parametrize(("codec", "library"), [("jpeg", "simplejpeg"), ("depth16", "lz4")])
def test_without_the_extra_what_to_install_is_said(bare, codec, library):
    with pytest.raises(ConfigurationError, match=rf"{library}.*remote-robot-env\[image\]"):
        check_codec(codec)
