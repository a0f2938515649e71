"""The checker of robots: good ones pass, and each fault is found by the check meant for it."""

import time
from pathlib import Path

import broken_robots as robots
import numpy as np
import pytest

from remote_env import ConfigurationError, ConnectionLostError, OutOfBounds, RobotClient
from remote_env_server import CameraConfig, ProprioConfig
from remote_env_server.driver import Driver
from remote_env_server.lease import Lease
from remote_env_server.safety import ActionGuard, ActionWatchdog
from remote_env_server.testing import ConformanceError, Status, check_robot
from remote_env_server.testing.checks import CHECKS, declaration, episodes, safety

EXAMPLE = Path(__file__).parents[2] / "examples/my_robot.py"
# It starts a process, which takes a second; it has tests of its own.
LEASE = safety.a_second_learner_is_refused_while_the_first_commands
QUICK = [check for check in CHECKS if check is not LEASE]
STEPS = [
    declaration.it_opens_and_describes_itself,
    episodes.reset_works_twice_in_a_row,
    episodes.steps_follow_a_reset,
]


@pytest.fixture
def check(slowdown):
    """Check a robot, with patience, and without the check that starts a process."""

    def check_quickly(target, **options):
        return check_robot(target, **{"patience": 2 * slowdown, "checks": QUICK, **options})

    return check_quickly


@pytest.fixture(autouse=True)
def threads_left_behind_end_with_the_test():
    robots.LeavesAThread.may_end.clear()
    robots.KeepsThePort.is_taken.clear()
    yield
    robots.LeavesAThread.may_end.set()


def named(report, status):
    return {result.name.replace(" ", "_"): result for result in report.of(status)}


# Good robots


def test_a_good_simulator_passes(check):
    report = check(robots.Simulator)
    assert report.is_ok, report
    assert named(report, Status.WARNING) == {}
    assert {r.what for r in report.of(Status.SKIPPED)} == {"only in realtime"}


@pytest.mark.realtime
def test_a_good_arm_passes(check):
    report = check(robots.Arm)
    assert report.is_ok, report
    assert named(report, Status.WARNING) == {}
    assert len(report.of(Status.PASSED)) >= 20


def test_the_double_pendulum_passes_in_lockstep(check):
    report = check("double-pendulum", checks=CHECKS)
    assert report.is_ok, report
    assert named(report, Status.WARNING) == {}


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_the_double_pendulum_passes_where_time_is_its_own(check, mode):
    report = check("double-pendulum", mode=mode, checks=CHECKS)
    assert report.is_ok, report
    skipped = {result.what for result in report.of(Status.SKIPPED)}
    assert "only in realtime" not in skipped
    assert "only in lockstep" in skipped
    assert "the_robot_holds_when_its_learner_falls_silent" in named(report, Status.PASSED)


def test_a_served_gymnasium_environment_passes(check):
    report = check("gymnasium:CartPole-v1")
    assert report.is_ok, report
    assert list(named(report, Status.WARNING)) == ["the_checker_of_gymnasium_passes"]


@pytest.mark.realtime
def test_the_example_passes(check):
    report = check(f"{EXAMPLE}:MyRobot")
    assert report.is_ok, report


def test_async_robots_are_watched_too(check):
    class Async(robots.Simulator):
        async def apply_action(self, action):
            super().apply_action(action)

        async def close(self):
            pass

    report = check(Async)
    assert report.is_ok, report
    assert "after_a_fault_the_next_reset_works" in named(report, Status.PASSED)


# Broken robots: each is found by one check, and by no other

BROKEN_SIMULATORS = [
    (robots.DoesNotOpen, "it_opens_and_describes_itself", "OSError: no arm on /dev/ttyUSB0"),
    (robots.ResetsOnce, "reset_works_twice_in_a_row", "the gripper is closed already"),
    (robots.FailsAtTheSecondStep, "steps_follow_a_reset", "the bus is off"),
    (
        robots.OutOfItsSpace,
        "observations_lie_in_the_observation_space",
        r"'position' of the first .* number \[1\] is .*, not within -100 to 100; 1 of 2",
    ),
    (robots.SensorOfNaN, "observations_lie_in_the_observation_space", r"number \[1\] is nan"),
    (
        robots.BlindOnRequest,
        "every_stream_delivers_also_those_on_request",
        "'cam/image' did not deliver once",
    ),
    (
        robots.RewardOfNaN,
        "rewards_are_finite_numbers_and_flags_are_bools",
        "the reward was nan after 1 good ones",
    ),
    (
        robots.ConfusedByAFault,
        "after_a_fault_the_next_reset_works",
        "a reset does not help: .*a motion is still going on",
    ),
    (
        robots.Unseeded,
        "the_same_seed_gives_the_same_trajectory",
        r"at the reset 'position'\[0\] is .* and ",
    ),
    (robots.HiddenState, "the_same_seed_gives_the_same_trajectory", "same seed and actions differ"),
    (
        robots.FallsWithTime,
        "lockstep_does_not_depend_on_the_clock",
        r"pauses of 0.15 s .* at step 1 'position'\[0\]",
    ),
    (
        robots.AcceptsAnyOption,
        "unknown_reset_options_are_refused",
        "no_such_option_of_remote_env_check.* was accepted",
    ),
    (
        robots.MovesItsLimit,
        "the_episode_ends_at_its_limit_and_not_after",
        "goes on after 12 steps, and max_episode_steps is 12",
    ),
    (robots.OneStepOnly, "the_checker_of_gymnasium_passes", "truncates after 1 step"),
    (robots.KeepsThePort, "it_opens_again_after_close", "OSError: /dev/ttyUSB0 is in use"),
    (
        robots.ClosesOnce,
        "close_works_and_may_be_called_twice",
        "AttributeError when it was called again",
    ),
    (robots.FailsToClose, "close_works_and_may_be_called_twice", "OSError: the device has gone"),
]
BROKEN_ARMS = [
    (robots.Unlimited, "the_description_is_complete", "'action' .* goes from -inf to inf"),
    (robots.OneValueOnly, "the_description_is_complete", "can have one value only"),
    (robots.WithoutHold, "hold_is_implemented", r"has no hold\(\)"),
    (
        robots.WallClock,
        "the_first_observation_is_younger_than_the_reset",
        "'joint_pos' was measured .* s in the future",
    ),
    (
        robots.SlowObservation,
        "steps_keep_the_control_period",
        r"control_hz says 20.0 ms .*get_obs took up to [3-9]\d",
    ),
    (robots.WaitsForTheMotion, "apply_action_returns_at_once", r"takes \d+.* of a period of 50"),
    (
        robots.SlowSensor,
        "streams_keep_their_declared_rates",
        "'joint_pos' came .* times a second, and should 100 times",
    ),
    (robots.BackwardStamps, "streams_keep_their_declared_rates", "'joint_pos' go back in time"),
    (
        robots.FrozenCamera,
        "streams_keep_their_declared_rates",
        "observations something was stale; 'cam/image' has delivered the same content for",
    ),
    (robots.SlowHold, "hold_returns_at_once_and_may_be_called_twice", r"hold\(\) took \d+ ms"),
    (
        robots.HoldsOnce,
        "hold_returns_at_once_and_may_be_called_twice",
        "called again while the robot held, raised RuntimeError: the brake is on already",
    ),
    (
        robots.BlocksTheControlThread,
        "the_robot_holds_when_its_learner_falls_silent",
        r"hold\(\) was called 0.\d+ s after the last action, whose lifetime is 0.100 s",
    ),
    (robots.LeavesAThread, "close_leaves_no_thread_behind", "1 threads still run .*'vendor'"),
]


def name_of(value):
    return value.__name__ if isinstance(value, type) else ""


@pytest.mark.parametrize(("robot", "name", "message"), BROKEN_SIMULATORS, ids=name_of)
def test_a_broken_simulator_is_found_by_the_check_meant_for_it(robot, name, message, check):
    report = check(robot)
    assert list(named(report, Status.FAILED)) == [name], report
    assert report.of(Status.FAILED)[0].advice
    with pytest.raises(ConformanceError, match=message):
        report.raise_if_failed()


@pytest.mark.realtime
@pytest.mark.parametrize(("robot", "name", "message"), BROKEN_ARMS, ids=name_of)
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_a_broken_arm_is_found_by_the_check_meant_for_it(robot, name, message, mode, check):
    report = check(robot, mode=mode)
    assert list(named(report, Status.FAILED)) == [name], report
    assert report.of(Status.FAILED)[0].advice
    with pytest.raises(ConformanceError, match=message):
        report.raise_if_failed()


# Servers that fail to protect a robot


def test_an_action_out_of_bounds_that_is_let_through_is_found(check, monkeypatch):
    begin = ActionGuard.__init__
    lenient = lambda self, space, policy: begin(self, space, OutOfBounds.PASS)  # noqa: E731
    monkeypatch.setattr(ActionGuard, "__init__", lenient)
    report = check(robots.Simulator)
    failed = named(report, Status.FAILED)
    assert list(failed) == ["an_action_out_of_bounds_never_reaches_the_robot"], report
    result = failed["an_action_out_of_bounds_never_reaches_the_robot"]
    assert result.what.startswith("the robot was told to execute [")


def test_an_action_out_of_bounds_does_not_move_the_robot_that_is_checked(check, monkeypatch):
    begin = ActionGuard.__init__
    lenient = lambda self, space, policy: begin(self, space, OutOfBounds.PASS)  # noqa: E731
    monkeypatch.setattr(ActionGuard, "__init__", lenient)
    executed = []

    class Recording(robots.Simulator):
        def apply_action(self, action):
            executed.append(np.abs(action).max())
            super().apply_action(action)

    check(Recording)
    assert executed
    assert max(executed) <= 1.0


def test_a_nan_that_is_let_through_is_found(check, monkeypatch):
    judge = ActionGuard.check
    lenient = lambda self, arrays: judge(self, [np.nan_to_num(a) for a in arrays])  # noqa: E731
    monkeypatch.setattr(ActionGuard, "check", lenient)
    report = check(robots.Simulator)
    failed = named(report, Status.FAILED)
    assert list(failed) == ["an_action_with_nan_never_reaches_the_robot"], report
    assert "nan" in failed["an_action_with_nan_never_reaches_the_robot"].what


def test_an_observer_that_is_turned_away_is_found(check, monkeypatch):
    ping = RobotClient.ping

    def ping_only_to_command(self, **arguments):
        if self._role == "observe":
            raise ConnectionLostError("the robot said goodbye")
        return ping(self, **arguments)

    monkeypatch.setattr(RobotClient, "ping", ping_only_to_command)
    assert list(named(check(robots.Simulator), Status.FAILED)) == ["an_observer_may_connect"]


def test_a_lease_that_anybody_gets_is_found(check, monkeypatch):
    acquire = Lease.acquire

    def acquire_always(self, holder, *, take, is_stale):
        return acquire(self, holder, take=True, is_stale=is_stale)

    assert check(robots.Simulator, checks=CHECKS).is_ok
    monkeypatch.setattr(Lease, "acquire", acquire_always)
    report = check(robots.Simulator, checks=CHECKS)
    assert [result.name for result in report.of(Status.FAILED)] == [LEASE.name]


# Over a url


@pytest.mark.realtime
def test_over_a_url_what_needs_the_robots_code_is_skipped(check, serve):
    report = check(serve(robots.Arm()).url)
    assert report.is_ok, report
    skipped = named(report, Status.SKIPPED)
    assert skipped["apply_action_returns_at_once"].what.endswith("own code, not a url")
    passed = named(report, Status.PASSED)
    assert "the_robot_holds_when_its_learner_falls_silent" in passed
    assert "streams_keep_their_declared_rates" in passed


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("robot", "name"),
    [
        (robots.SlowObservation, "steps_keep_the_control_period"),
        (robots.SlowSensor, "streams_keep_their_declared_rates"),
        (robots.WallClock, "the_first_observation_is_younger_than_the_reset"),
    ],
    ids=name_of,
)
def test_what_the_wire_shows_is_found_over_a_url(robot, name, check, serve):
    assert list(named(check(serve(robot()).url), Status.FAILED)) == [name]


@pytest.mark.realtime
def test_a_robot_that_does_not_hold_is_found_over_a_url(check, serve, monkeypatch):
    monkeypatch.setattr(ActionWatchdog, "is_expired", lambda self, now: False)
    report = check(serve(robots.Arm()).url)
    failed = named(report, Status.FAILED)
    assert list(failed) == ["the_robot_holds_when_its_learner_falls_silent"], report
    what = failed["the_robot_holds_when_its_learner_falls_silent"].what
    assert "of silence the robot had not held" in what


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_over_a_url_no_robot_is_moved_at_its_limit(mode, check, serve):
    class Clips(robots.Arm):
        out_of_bounds = OutOfBounds.CLIP
        most = 0.0

        def apply_action(self, action):
            self.most = max(self.most, float(np.abs(action).max()))
            super().apply_action(action)

    robot = Clips()
    report = check(
        serve(robot, mode=mode).url,
        checks=[*STEPS, safety.an_action_out_of_bounds_never_reaches_the_robot],
    )
    assert [result.status.value for result in report.results] == ["passed"] * 3 + ["skipped"]
    assert report.results[-1].what == "a clipped action would move the robot at its limit"
    assert 0.0 < robot.most < 0.1


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_nobody_waits_for_a_long_episode(mode, check):
    class Long(robots.Arm):
        max_episode_steps = 500

    report = check(
        Long, mode=mode, checks=[*STEPS, episodes.the_episode_ends_at_its_limit_and_not_after]
    )
    assert report.results[-1].what == "10 s are too long to wait for"


@pytest.mark.realtime
@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_a_server_that_does_not_hold_after_a_fault_is_found(mode, check, monkeypatch):
    monkeypatch.setattr(Driver, "hold", lambda self, *, is_emergency=False: True)
    report = check(
        robots.Arm, mode=mode, checks=[*STEPS, safety.after_a_fault_the_next_reset_works]
    )
    assert report.results[-1].what == "the robot did not hold after the fault"


def test_a_url_where_nobody_listens_is_one_failure(check):
    report = check("ws://127.0.0.1:9")
    assert list(named(report, Status.FAILED)) == ["it_opens_and_describes_itself"]
    assert len(report.of(Status.SKIPPED)) == len(QUICK) - 1


def test_the_mode_of_a_robot_elsewhere_is_not_ours_to_choose():
    with pytest.raises(ConfigurationError, match="is served already"):
        check_robot("ws://127.0.0.1:9", mode="lockstep")


def test_a_factory_must_make_a_new_robot_each_time(check):
    report = check(lambda robot=robots.Simulator(): robot)  # noqa: B008 (that is the mistake)
    assert list(named(report, Status.FAILED)) == ["it_opens_again_after_close"]
    assert "the same robot again" in report.of(Status.FAILED)[0].what


def test_a_factory_must_make_a_robot(check):
    report = check(dict)
    assert "the factory returned dict; it must return a new Robot" in report.results[0].what


def test_a_token_is_shown(check, serve):
    token = "more-than-sixteen-characters"
    url = serve(robots.Simulator(), token=token).url
    assert not check(url).is_ok
    assert check(url, token=token, checks=CHECKS).is_ok


# What a person must judge


@pytest.mark.realtime
def test_what_is_not_declared_is_warned_of(check):
    class Terse(robots.Arm):
        def proprio_configs(self):
            return [ProprioConfig("joint_pos", 3)]

    warned = named(check(Terse), Status.WARNING)
    assert warned["the_description_is_complete"].what == (
        "'joint_pos': no unit; 'joint_pos': no rate; 'joint_pos': no bounds"
    )


@pytest.mark.realtime
def test_image_and_depth_of_different_captures_are_warned_of(check):
    class Torn(robots.Arm):
        def read_camera(self):
            self.count += 1
            self.update_image("cam", np.full((4, 6, 3), self.count % 256, np.uint8))
            time.sleep(0.005)
            if self.count % 2:
                self.update_depth("cam", np.full((4, 6), self.count % 9, np.float32))

    warned = named(check(Torn), Status.WARNING)
    assert "of cam come from different" in warned["streams_keep_their_declared_rates"].what


PLAUSIBLE = "no_stream_is_frozen_and_its_values_are_plausible"


def test_a_frozen_stream_is_warned_of(check):
    class Frozen(robots.Simulator):
        def publish(self):
            super().publish()
            self.update_proprio("position", [1.0, 2.0])

    warned = named(check(Frozen), Status.WARNING)
    assert "'position' never changed in" in warned[PLAUSIBLE].what


def test_degrees_and_millimetres_are_warned_of(check):
    class Confused(robots.Simulator):
        def proprio_configs(self):
            return [ProprioConfig("position", 2, np.float64, unit="rad", low=-400, high=400)]

        def camera_configs(self):
            return [CameraConfig("cam", 4, 6, has_depth=True, extrinsics=2 * np.eye(4))]

        def publish(self):
            self.update_proprio("position", 90.0 + self.position)
            image = np.full((4, 6, 3), int(abs(self.position[0]) * 100) % 256, np.uint8)
            depth = np.full((4, 6), 1250.0 + self.position[0], np.float32)
            self.update_camera("cam", image=image, depth=depth)

    what = named(check(Confused), Status.WARNING)[PLAUSIBLE].what
    assert "'position' reaches " in what
    assert "'cam/depth' reaches 12" in what
    assert "the extrinsics of 'cam' hold no rotation" in what


def test_a_seed_that_changes_nothing_is_warned_of(check):
    warned = named(check(robots.IgnoresTheSeed), Status.WARNING)
    assert list(warned) == ["another_seed_gives_another_trajectory"]


def test_what_the_server_logs_of_a_robot_is_warned_of(check):
    class Talkative(robots.Simulator):
        def get_metadata(self):
            return {"arm": object()}

    warned = named(check(Talkative), Status.WARNING)
    assert "get_metadata()['arm'] is left out" in warned["it_opens_and_describes_itself"].what


# How much it moves


def test_without_moves_nothing_is_reset_or_stepped(check):
    moved = []

    class Watched(robots.Simulator):
        def reset(self, **arguments):
            moved.append("reset")

        def apply_action(self, action):
            moved.append("step")

    report = check(Watched, moves=False)
    assert report.is_ok
    assert moved == []
    assert "the_description_is_complete" in named(report, Status.PASSED)


def test_no_more_actions_are_sent_than_allowed(check):
    sent = []

    class Watched(robots.Simulator):
        def apply_action(self, action):
            sent.append(action)
            super().apply_action(action)

    report = check(Watched, max_steps=30)
    assert len(sent) == 30
    assert "as many actions were sent as max_steps allows" in {
        result.what for result in report.of(Status.SKIPPED)
    }


@pytest.mark.realtime
def test_actions_in_realtime_are_small(check):
    largest = []

    class Watched(robots.Arm):
        def apply_action(self, action):
            largest.append(np.abs(action).max())
            super().apply_action(action)

    check(Watched)
    assert 0.0 < max(largest) <= 0.04 + 1e-6


@pytest.mark.realtime
def test_an_author_may_choose_the_actions(check):
    chosen = []

    class Watched(robots.Arm):
        def apply_action(self, action):
            chosen.append(action.tolist())
            super().apply_action(action)

    check(Watched, action=lambda observation: np.full(3, 0.5, np.float32))
    assert chosen
    assert all(action == [0.5] * 3 for action in chosen)
