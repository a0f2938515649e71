"""What is lent is whole, and stays as it is while anybody looks at it; the rest is refused."""

import fcntl
import gc
import os
import random
import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import mappings

from remote_env.errors import RemoteProtocolError
from remote_env.transport.shared_memory import REFERENCE_SIZE, Borrower, Lender

SIZE = 1 << 20
PAGE = 4096
# Three frames, each with room for its header.
ROOM = 3 * (SIZE + (64 << 10))


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def borrower_of(lender, most=ROOM, **changed):
    given = {"pid": os.getpid(), "file": lender.file, "size": lender.size, "token": lender.token}
    return Borrower.open(most=most, **{**given, **changed})


@pytest.fixture
def ends():
    lender = Lender(SIZE)
    borrower = borrower_of(lender)
    assert lender.settle()
    return lender, borrower


def pass_on(ends, data):
    lender, borrower = ends
    reference = lender.place([data], len(data))
    return None if reference is None else borrower.take(reference)


def address(frame):
    return np.frombuffer(frame, np.uint8).ctypes.data


def test_a_frame_in_parts_lies_whole_where_the_reference_says(ends):
    lender, borrower = ends
    parts = [b"head", noise(100_000), bytearray(b""), memoryview(noise(30_000, 2)), bytearray(b"x")]
    size = sum(map(len, parts))
    frame = borrower.take(lender.place(parts, size))
    assert frame == b"".join(parts)
    assert address(frame) % 64 == 0


def test_a_frame_is_the_callers_own(ends):
    data = bytearray(noise(SIZE))
    frame = pass_on(ends, data)
    data[0] ^= 1
    assert frame == noise(SIZE)
    frame[:] = bytes(SIZE)
    assert data[1:] == noise(SIZE)[1:]


def test_a_place_is_used_again_when_nobody_refers_to_it_and_not_before(ends):
    _, borrower = ends
    frame = pass_on(ends, noise(SIZE))
    picture = np.frombuffer(frame, np.uint8).reshape(1024, 1024)[::2, ::2]
    place = address(frame)
    del frame
    borrower.give_back()
    other = pass_on(ends, bytes(SIZE))
    assert address(other) != place
    assert (
        picture.tobytes()
        == np.frombuffer(noise(SIZE), np.uint8).reshape(1024, 1024)[::2, ::2].tobytes()
    )
    del picture
    borrower.give_back()
    assert address(pass_on(ends, noise(SIZE))) == place


def test_without_room_nothing_is_lent_until_something_is_given_back(ends):
    lender, borrower = ends
    held = [pass_on(ends, noise(SIZE, seed)) for seed in range(3)]
    assert lender.place([noise(SIZE)], SIZE) is None
    borrower.give_back()
    assert lender.place([noise(SIZE)], SIZE) is None
    assert [bytes(frame) for frame in held] == [noise(SIZE, seed) for seed in range(3)]
    del held[1]
    borrower.give_back()
    assert pass_on(ends, noise(SIZE, 7)) == noise(SIZE, 7)


def test_no_more_than_the_words_can_tell_of_is_lent(ends):
    held = [pass_on(ends, noise(PAGE, seed)) for seed in range(20)]
    assert [frame is not None for frame in held] == [True] * 16 + [False] * 4
    assert held[15] == noise(PAGE, 15)


def test_a_frame_larger_than_the_segment_is_not_lent(ends):
    lender, _ = ends
    assert lender.place([bytes(ROOM + 1)], ROOM + 1) is None
    assert lender.place([bytes(ROOM)], ROOM) is not None


def test_memory_of_a_connection_is_three_frames_and_less_than_a_mebibyte():
    assert Lender(SIZE).size <= 3 * SIZE + (1 << 20)


def test_what_was_not_taken_is_unread(ends):
    lender, borrower = ends
    references = [lender.place([bytes(1000)], 1000) for _ in range(2)]
    assert lender.unread() == 2000
    frame = borrower.take(references[0])
    assert lender.unread() == 1000
    borrower.take(references[1])
    assert lender.unread() == 0
    assert len(frame) == 1000


def test_the_segment_goes_with_the_last_who_uses_it():
    gc.collect()
    before = mappings()
    lender = Lender(SIZE)
    borrower = borrower_of(lender)
    array = np.frombuffer(borrower.take(lender.place([noise(SIZE)], SIZE)), np.uint8)
    assert mappings() > before
    del lender, borrower
    assert array.tobytes() == noise(SIZE)
    del array
    assert mappings() == before


def test_nobody_can_cut_the_segment_off():
    lender = Lender(SIZE)
    for size in (0, lender.size - 1, lender.size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(lender.file, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(lender.file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_who_has_not_found_the_segment_has_not_proved_it():
    lender = Lender(SIZE)
    file = lender.file
    assert not lender.settle()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(file)


WRONG = {
    "another token": {"token": bytes(32)},
    "another size": {"size": 4 * PAGE},
    "no such process": {"pid": 1 << 30},
    "no such file": {"file": 1 << 20},
    "another kind of file": {"file": 0},
}


@pytest.mark.parametrize("changed", WRONG.values(), ids=WRONG.keys())
def test_what_is_not_the_segment_is_not_opened(changed):
    lender = Lender(SIZE)
    with pytest.raises(OSError):
        borrower_of(lender, **changed)
    assert not lender.settle()


def test_a_file_that_only_opening_would_disturb_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with open(os.open(tmp_path / "fifo", os.O_RDWR)) as fifo:
        lender = Lender(SIZE)
        with pytest.raises(OSError, match="is no segment"):
            borrower_of(lender, file=fifo.fileno())


def test_a_segment_that_could_be_cut_off_is_not_used():
    file = os.memfd_create("remote-env", os.MFD_ALLOW_SEALING)
    with open(file, "r+b", buffering=0) as segment:
        segment.write(bytes(SIZE))
        with pytest.raises(OSError, match="no sealed segment"):
            Borrower.open(os.getpid(), file, SIZE, bytes(32), SIZE)


def test_a_segment_of_another_user_is_not_used_even_by_root(monkeypatch):
    lender = Lender(SIZE)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(OSError, match=f"is of user {user}"):
        borrower_of(lender)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_kernel_lets_no_other_user_open_the_segment():
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    lender = Lender(SIZE)
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            borrower_of(lender, pid=os.getppid())
            said = b"opened"
        except OSError as error:
            said = type(error).__name__.encode()
        there.send(said)
        os._exit(0)
    assert here.recv(100) == b"PermissionError"
    os.waitpid(child, 0)
    assert not lender.settle()
    here.close()
    there.close()


def changed(reference, **values):
    names = ("stamp", "start", "size", "number")
    said = dict(zip(names, struct.unpack("<QQQQ", reference), strict=True))
    return struct.pack("<QQQQ", *{**said, **values}.values())


NONSENSE = {
    "another stamp": {"stamp": 99},
    "in the first page": {"start": 0},
    "not at a page": {"start": PAGE + 1},
    "behind the end": {"start": ROOM, "size": 2 * PAGE},
    "far behind the end": {"start": (1 << 64) - PAGE, "size": PAGE},
    "of no size": {"size": 0},
    "larger than agreed": {"size": SIZE + 1},
    "a loan that there is not": {"number": 16},
    "a loan far away": {"number": 1 << 63},
}


@pytest.mark.parametrize("values", NONSENSE.values(), ids=NONSENSE.keys())
def test_a_reference_to_what_is_no_frame_is_refused(values):
    lender = Lender(SIZE)
    borrower = borrower_of(lender, most=SIZE)
    reference = lender.place([noise(1000)], 1000)
    assert len(reference) == REFERENCE_SIZE
    with pytest.raises(RemoteProtocolError, match="where no frame may lie"):
        borrower.take(changed(reference, **values))
    assert borrower.take(reference) == noise(1000)


def test_what_somebody_looks_at_cannot_be_taken_again(ends):
    lender, borrower = ends
    reference = lender.place([noise(1000)], 1000)
    frame = borrower.take(reference)
    other = lender.place([noise(1000)], 1000)
    (start,) = struct.unpack_from("<Q", reference, 8)
    elsewhere = changed(reference, start=start + 64 * PAGE)
    for bad in (reference, changed(other, start=start), elsewhere):
        with pytest.raises(RemoteProtocolError):
            borrower.take(bad)
    assert frame == noise(1000)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_child_may_look_at_is_never_used_again(ends):
    lender, borrower = ends
    frame = pass_on(ends, noise(SIZE))
    place = address(frame)
    here, there = socket.socketpair()
    child = os.fork()
    if not child:
        here.close()
        there.recv(1)  # or the end of our parent
        there.send(b"same" if bytes(frame) == noise(SIZE) else b"changed")
        os._exit(0)
    there.close()
    del frame
    places = []
    for seed in range(5):
        borrower.give_back()
        other = pass_on(ends, bytes([seed]) * SIZE)
        places.append(address(other))
    here.send(b"x")
    assert here.recv(10) == b"same"
    assert place not in places
    os.waitpid(child, 0)
    assert lender.unread() == 0
    here.close()


SIZES = st.integers(1, PAGE) | st.integers(1, SIZE) | st.sampled_from([PAGE, PAGE + 1, SIZE])


@given(st.lists(st.tuples(SIZES, st.integers(0, 5)), max_size=40))
def test_whatever_is_lent_and_dropped_what_is_held_stays_as_it_was(actions):
    lender = Lender(SIZE)
    ends = lender, borrower_of(lender)
    held = []
    for seed, (size, drops) in enumerate(actions):
        data = noise(size, seed)
        frame = pass_on(ends, data)
        if frame is not None:
            held.append((frame, data))
        del frame
        if drops and held:
            del held[seed % len(held)]
            ends[1].give_back()
        assert all(one == was for one, was in held)
