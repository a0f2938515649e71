"""Very many actions of every bad kind, from the wire to a driver: none that is invalid arrives.

``REMOTE_ENV_TEST_ACTIONS`` says how many; ``make fuzz`` sends a million. Actions are generated
and judged in bulk, by numpy and by rules written down once more here, and go one by one
through the guard and the limiter into the driver of a robot that remembers them.
"""

import dataclasses
import os
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces

from remote_env.errors import ActionRefusedError
from remote_env_server import ActionLimit, Mode, OutOfBounds, Robot
from remote_env_server.driver import Driver
from remote_env_server.motion import MotionLimiter
from remote_env_server.safety import ActionGuard

ACTIONS = int(os.environ.get("REMOTE_ENV_TEST_ACTIONS", "100000"))
CHUNK = 50
PERIOD = 0.02
REFUSE, CLIP, PASS = OutOfBounds.REFUSE, OutOfBounds.CLIP, OutOfBounds.PASS

BOTH = ActionLimit(max_rate=2.0, max_step=0.3, measured="state")
RATE = ActionLimit(max_rate=[2.0, np.inf, 0.5])
ARM = spaces.Box(np.float32([-1, -0.5, -0.1]), np.float32([1, 0.5, 2]), dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Case:
    space: spaces.Space
    policy: OutOfBounds
    limit: ActionLimit | None = None


CASES = {
    "float32": Case(ARM, REFUSE),
    "float32, clip": Case(ARM, CLIP),
    "float32, limits": Case(ARM, REFUSE, BOTH),
    "float32, limits, clip": Case(ARM, CLIP, BOTH),
    "float32, unbounded, rate": Case(spaces.Box(-np.inf, np.inf, (3,), np.float32), REFUSE, RATE),
    "float32, unbounded, rate, clip": Case(spaces.Box(-np.inf, np.inf, (3,)), CLIP, RATE),
    "float16, limits, clip": Case(spaces.Box(-1.0, 1.0, (3,), np.float16), CLIP, BOTH),
    "float64, half bounded, limits, clip": Case(
        spaces.Box(0.0, np.inf, (3,), np.float64), CLIP, BOTH
    ),
    "float64, matrix": Case(spaces.Box(-1.0, 1.0, (4, 8), np.float64), REFUSE),
    "uint8, clip": Case(spaces.Box(0, 255, (2,), np.uint8), CLIP),
    "int16": Case(spaces.Box(-300, 300, (2,), np.int16), REFUSE),
    "Discrete": Case(spaces.Discrete(5, start=-2), REFUSE),
    "MultiDiscrete": Case(spaces.MultiDiscrete([3, 250], dtype=np.uint8, start=[1, 5]), CLIP),
    "MultiBinary": Case(spaces.MultiBinary(2), REFUSE),
    "float32, pass": Case(ARM, PASS),
    "Discrete, pass": Case(spaces.Discrete(5), PASS),
}

WIRE_DTYPES = [f"{order}{kind}{size}" for order in "<>" for kind in "fiu" for size in (2, 4, 8)]
WIRE_DTYPES += ["|b1", "|u1", "|i1"]
SPECIAL = [
    np.nan,
    np.inf,
    -np.inf,
    -0.0,
    1e-45,
    5e-324,
    -1e-320,
    1e39,
    -1e300,
    65520.0,
    3.4028236e38,
]
SPECIAL += [-1.0, 256.0, 300.0, 65536.0, -32769.0, 2.0**63, 2.0**64, -(2.0**63), 0.5, 1.0000001]


class Recorder(Robot):
    """Remembers what would have moved it."""

    modes: ClassVar = (Mode.LOCKSTEP,)

    def __init__(self, case):
        super().__init__()
        self.received = []

    def apply_action(self, action):
        self.received.append(np.array(action))


def bounds(space):
    """Return low and high as floats, which is exact for the spaces above."""
    if isinstance(space, spaces.Box):
        return space.low.astype(float), space.high.astype(float)
    if isinstance(space, spaces.Discrete):
        return float(space.start), float(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.astype(float), space.start.astype(float) + space.nvec - 1
    return 0.0, 1.0


def values(rng, space, count):
    """Return float64 actions: most of them sane and slowly moving, some not at all."""
    low, high = (np.clip(bound, -2.0, 255.0) for bound in bounds(space))
    shape = (count, *(space.shape or ()))
    wave = np.sin(np.arange(count) * 0.03).reshape(-1, *[1] * (len(shape) - 1))
    sane = (low + high) / 2 + (high - low) * 0.2 * (wave + rng.uniform(-0.01, 0.01, shape))
    if space.dtype.kind != "f":
        sane = np.rint(sane)
    wild = rng.choice(SPECIAL, shape)
    near = np.where(rng.random(shape) < 0.5, low, high) * rng.choice([1, 1, 1.0001, 1.5], shape)
    far = np.where(rng.random(shape) < 0.5, wild, near)
    is_wild = rng.random(count).reshape(wave.shape) < 0.3
    return np.where(is_wild & (rng.random(shape) < 0.4), far, sane)


def on_the_wire(rng, space, chunk):
    """Return a chunk in some dtype and some order in memory."""
    dtype = rng.choice(WIRE_DTYPES) if rng.random() < 0.5 else space.dtype
    with np.errstate(all="ignore"):
        arrays = chunk.astype(dtype)
    if arrays.dtype.kind == "f" and rng.random() < 0.2:  # a signalling NaN
        size = arrays.dtype.itemsize
        bits = np.array({2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[size], f"<u{size}")
        arrays[rng.integers(len(arrays))] = bits.view(f"<f{size}")
    match rng.integers(4):
        case 0:
            return arrays
        case 1:
            return np.asfortranarray(arrays)
        case 2:
            return np.repeat(arrays, 2, axis=-1)[..., ::2] if arrays.ndim > 1 else arrays
        case _:
            return np.ascontiguousarray(arrays[..., ::-1])[..., ::-1]


def is_valid(space, arrays, policy):
    """Judge a chunk: what may go to the robot unchanged, if there were no limits."""
    axes = tuple(range(1, arrays.ndim))
    low, high = bounds(space)
    if policy is PASS:
        is_number = arrays.dtype.kind != "f" or not isinstance(space, spaces.Discrete)
        return np.isfinite(arrays).all(axis=axes) & is_number
    if space.dtype.kind == "f":
        with np.errstate(all="ignore"):
            arrays = arrays.astype(space.dtype)
        return (np.isfinite(arrays) & (arrays >= low) & (arrays <= high)).all(axis=axes)
    if arrays.dtype.kind == "f":
        return np.zeros(len(arrays), bool)
    exact = arrays.astype(object)
    return ((exact >= low) & (exact <= high)).astype(bool).all(axis=axes)


@dataclasses.dataclass
class Log:
    """What happened, action by action."""

    guarded: list = dataclasses.field(default_factory=list)  # whether the guard let it unchanged
    executed: list = dataclasses.field(default_factory=list)  # (start, lapse, state) of each
    refused: list = dataclasses.field(default_factory=list)  # codes
    clipped: int = 0


def send(case, arrays, states, rng, guard, limiter, driver, log):
    """Send one chunk, action by action."""
    lapses = rng.choice([PERIOD, PERIOD, PERIOD, 0.005, 1.0, 0.0, np.nan, np.inf], len(arrays))
    forgets = rng.random(len(arrays)) < 0.02
    previous = None
    limiter.forget()
    for action, state, lapse, forget in zip(arrays, states, lapses, forgets, strict=True):
        if forget:
            limiter.forget()
            previous = None
        try:
            guarded = guard.check([np.asarray(action)])
            log.guarded.append(not guarded.was_clipped)
        except ActionRefusedError as error:
            log.guarded.append(False)
            log.refused.append(error.code)
            continue
        try:
            limited = limiter.check(guarded.value, measured={"state": state}, seconds=lapse)
        except ActionRefusedError as error:
            log.refused.append(error.code)
            continue
        log.clipped += guarded.was_clipped or limited.was_clipped
        driver.apply_action(limited.value, simulated_time=0.0)
        limiter.note_executed(limited.value)
        log.executed.append((previous, lapse, state))
        previous = np.array(limited.value)


def run(case, count, seed):
    """Send so many actions; return what was received, what should have passed, and the log."""
    rng = np.random.default_rng(seed)
    driver, log, valid = Driver(Recorder(case)), Log(), []
    limits = {"action": case.limit} if case.limit else {}
    guard = ActionGuard(case.space, case.policy)
    limiter = MotionLimiter(case.space, limits, case.policy, control_period=PERIOD)
    for _ in range(count // CHUNK):
        sent = values(rng, case.space, CHUNK)
        arrays = on_the_wire(rng, case.space, sent)
        states = np.clip(np.nan_to_num(sent), -2, 2) + rng.uniform(-0.1, 0.1, sent.shape)
        states[rng.random(CHUNK) < 0.02] += 1.0
        states[rng.random(CHUNK) < 0.01] = rng.choice([np.nan, np.inf])
        valid.append(is_valid(case.space, arrays, case.policy))
        send(case, arrays, states, rng, guard, limiter, driver, log)
    driver.close()
    return driver.robot.received, np.concatenate(valid), log


def count_beyond(values, centres, reaches, dtype):
    """Return how many values are further from their centres than may be, beside rounding."""
    rounding = 4 * np.finfo(dtype).eps * (np.abs(centres) + reaches) + np.finfo(dtype).tiny
    with np.errstate(invalid="ignore"):  # infinite limits
        return np.sum(~(np.abs(values - centres) <= reaches + rounding) & ~np.isinf(reaches))


def count_violations(case, received, log):
    """Return how many executed actions broke a limit."""
    starts, lapses, states = zip(*log.executed, strict=True)
    values, states = np.array(received, float), np.array(states)
    is_first = np.array([start is None for start in starts])
    starts = np.array(
        [s if start is None else start for s, start in zip(states, starts, strict=True)]
    )
    lapses = np.where(is_first, PERIOD, np.fmax(lapses, 1e-9))  # NaN is no time
    max_rate = np.broadcast_to(case.limit.max_rate, case.space.shape)
    with np.errstate(invalid="ignore"):
        reaches = np.where(np.isinf(max_rate), np.inf, max_rate * lapses[:, None])
    if not case.limit.measured:
        reaches[is_first] = np.inf
    found = count_beyond(values, starts.astype(float), reaches, case.space.dtype)
    if case.limit.max_step is not None:
        reaches = np.broadcast_to(case.limit.max_step, values.shape)
        found += count_beyond(values, states, reaches, case.space.dtype)
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_no_invalid_action_reaches_the_driver(name):
    case = CASES[name]
    count = -(-ACTIONS // len(CASES) // CHUNK) * CHUNK
    received, valid, log = run(case, count, seed=[*name.encode()])

    values = np.array(received, float)
    low, high = bounds(case.space)
    assert np.isfinite(values).all()
    if case.policy is not PASS:
        assert {action.dtype for action in received} == {np.dtype(case.space.dtype)}
        assert np.all((values >= low) & (values <= high))
    assert case.limit is None or count_violations(case, received, log) == 0
    # Neither does the guard change or refuse anything that was valid.
    assert log.guarded == valid.tolist()
    # And there was something to guard against.
    assert len(received) > count / 10
    assert len(received) + len(log.refused) == count
    assert log.clipped > 0 or case.policy is not CLIP or name == "MultiDiscrete"
    reasons = {code.rpartition(".")[2] for code in log.refused}
    assert reasons >= expected_reasons(case)


def expected_reasons(case):
    """Return for what reasons at least some actions must have been refused."""
    is_float = case.space.dtype.kind == "f"
    reasons = {"not_finite"} if is_float else {"dtype"}
    if case.policy is REFUSE and np.isfinite(bounds(case.space)).all():
        reasons |= {"bounds"}
    if case.policy is REFUSE and case.limit:
        reasons |= {"rate"} | ({"step"} if case.limit.max_step else set())
    if case.limit and case.limit.measured:
        reasons |= {"measured"}
    return reasons
