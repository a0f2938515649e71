"""A simulated arm that reaches: six joints, a gripper, three cameras, and a goal.

The arm itself is ``arm.xml``, primitive shapes without meshes; how its hand moves is
``arm_motion``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, UnknownOptionError
from remote_env.goals import ACHIEVED, DESIRED, GoalReward, distance_between
from remote_env.protocol.values import Value
from remote_env.spec import OutOfBounds
from remote_env_server.robot import Observation, Outcome, ProprioConfig
from remote_env_server.robots.arm_motion import HandController
from remote_env_server.robots.mujoco_rendering import Quality
from remote_env_server.robots.mujoco_simulation import MujocoConfig, MujocoSimulation

__all__ = ["ArmConfig", "ArmRobot"]

_JOINTS: Final = 6
_CONTROL_HZ: Final = 20.0
# Of the tool along each axis, m/s: the box of the goals is crossed in 0.6 s.
MAX_SPEED: Final = 0.5
# Of the opening between the fingers, m/s, and the widest, m.
MAX_GRIPPER_SPEED: Final = 0.1
MAX_OPENING: Final = 0.08
# Of any joint, rad/s: what the drives of arm.xml take.
_MAX_JOINT_SPEED: Final = 3.0
# Goals are drawn from this box around the tool's place in the keyframe "home", in metres.
GOAL_CENTRE: Final = (0.40, 0.0, 0.225)
GOAL_REACH: Final = 0.15
# The tool is kept inside this box around the same place, in metres; the table is below it.
TOOL_REACH: Final = 0.19
# What the tool may be beyond it while it brakes, in metres.
_OVERSHOOT: Final = 0.04
# Where goal_difference ends, in metres: farther away, which takes four control periods at full
# speed, the direction is enough, and a policy that scales by these bounds sees the rest better.
_FAR: Final = 0.1


@dataclass(frozen=True)
class ArmConfig:
    """Options of the simulated arm.

    Attributes:
        reward: "dense" is minus the distance of the tool from the goal, in metres; "sparse" is
            0 within the radius and -1 beyond it.
        goal_radius: How near to the goal counts as a success, in metres, from 0.001 to 0.1.
        max_steps: After so many steps, at 20 Hz, the episode is truncated.
        cameras: Of front, side and wrist; all if not given. "none" for none.
        image_size: Height and width of the pictures, in pixels, each from 16 to 4096.
        camera_hz: Pictures per second of each camera, in real time.
        quality: "fast", or "fine" with shadows and smooth edges, which takes ten times as long
            on a CPU.
    """

    reward: Literal["dense", "sparse"] = "dense"
    goal_radius: float = 0.025
    max_steps: int = 30
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (240, 320)
    camera_hz: float = 30.0
    quality: Quality = "fast"

    def __post_init__(self) -> None:
        """Check what the simulation does not.

        Raises:
            ConfigurationError: Naming the option, its value and its bounds.
        """
        if not 0.001 <= self.goal_radius <= 0.1:  # also refuses NaN
            raise ConfigurationError(
                f"arm: goal_radius must be from 0.001 to 0.1 m, not {self.goal_radius!r}"
            )
        if self.max_steps < 1:
            raise ConfigurationError(f"arm: max_steps must be at least 1, not {self.max_steps!r}")


class ArmRobot(MujocoSimulation):
    """A simulated six-joint arm with a gripper that is to reach a goal.

    ===================  ==============================================================
    action               ``(4,)`` float32, -1 to 1: velocity of the tool along x, y, z of
                         the base, as a share of 0.5 m/s, and of the gripper's opening,
                         as a share of 0.1 m/s
    ``joint_pos``        ``(6,)`` float32, rad
    ``joint_vel``        ``(6,)`` float32, rad/s
    ``gripper_opening``  ``(1,)`` float32, m between the fingers
    ``achieved_goal``    ``(3,)`` float32, m, where the tool is, base frame
    ``desired_goal``     ``(3,)`` float32, m, where it should be, base frame
    ``goal_difference``  ``(3,)`` float32, m, the second less the first, at most 0.1 along each axis
    ``CAMERA/image``     on request, of ``front``, ``side`` and ``wrist``:
                         ``(height, width, 3)`` uint8 RGB
    ``CAMERA/depth``     on request: ``(height, width)`` float32, m along the optical axis,
                         0 where there is nothing
    ===================  ==============================================================

    The base frame: x forward, y left, z up from the table, in metres. Episodes begin with the
    arm at rest in the middle, (0.40, 0, 0.225), gripper down, and a goal drawn evenly from the
    box of 0.15 m around it; ``reset(options={"goal": [x, y, z]})`` chooses one. The reward of a
    step is minus the distance in metres (or sparse), ``info`` holds ``distance`` and
    ``is_success``, and nothing but the limit of 30 steps ends an episode.

    The hand follows by damped inverse kinematics of the measured joints, gripper down, and is
    kept in the box of 0.19 m around the middle. To hold, all velocities are 0.
    """

    name = "arm"
    action_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    out_of_bounds = OutOfBounds.CLIP
    seedable = True
    reset_options: Mapping[str, str] | None = {
        "goal": "[x, y, z] in metres, base frame; drawn if not given"
    }

    def __init__(self, config: ArmConfig | None = None) -> None:
        """Load the arm; ``open`` starts real time.

        Raises:
            ConfigurationError: If an option makes no sense.
        """
        chosen = config or ArmConfig()
        self._reward = GoalReward(chosen.reward, chosen.goal_radius, derived=("goal_difference",))
        self.goal_reward = self._reward
        self._generator = np.random.default_rng()
        self._goal = np.array(GOAL_CENTRE)
        super().__init__(
            MujocoConfig(
                Path(__file__).with_name("arm.xml"),
                control_hz=_CONTROL_HZ,
                max_steps=chosen.max_steps,
                keyframe="home",
                cameras=chosen.cameras,
                image_size=chosen.image_size,
                camera_hz=chosen.camera_hz,
                quality=chosen.quality,
            )
        )
        self._hand = HandController(
            self._model, site="tool", joints=_JOINTS, max_speed=_MAX_JOINT_SPEED
        )
        self._tool = self._model.site("tool").id
        stiffness = self._model.actuator_gainprm[:_JOINTS, 0]
        damping = self._model.dof_damping[:_JOINTS] - self._model.actuator_biasprm[:_JOINTS, 2]
        self._lag = damping / stiffness  # in seconds

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare what the arm feels, and its goal."""
        low, high = self._model.jnt_range[:_JOINTS].T
        centre, reach = np.array(GOAL_CENTRE), TOOL_REACH + _OVERSHOOT
        far = np.full(3, _FAR)
        speed = np.full(_JOINTS, 2 * _MAX_JOINT_SPEED)
        return [
            self.proprio("joint_pos", low, high, "rad"),
            self.proprio("joint_vel", -speed, speed, "rad/s"),
            self.proprio("gripper_opening", 0.0, MAX_OPENING, "m"),
            self.proprio("achieved_goal", centre - reach, centre + reach, "m"),
            self.proprio("desired_goal", centre - reach, centre + reach, "m"),
            self.proprio("goal_difference", -far, far, "m"),
        ]

    def get_metadata(self) -> dict[str, Value]:
        """Return where goals are, beside what every simulation tells."""
        box = ", ".join(f"{c - GOAL_REACH:g} to {c + GOAL_REACH:g}" for c in GOAL_CENTRE)
        return {**super().get_metadata(), "goals": f"({box}) m"}

    def outcome(self, observation: Observation) -> Outcome:
        """Judge how far the tool is from the goal."""
        distance = distance_between(observation[ACHIEVED], observation[DESIRED])
        return Outcome(
            reward=float(self._reward.at(distance)),
            info={
                "distance": float(distance),
                "is_success": bool(distance < self._reward.threshold),
            },
        )

    # What the simulation asks for, with its lock held

    def _begin(self, seed: int | None, options: Mapping[str, Value]) -> None:
        chosen = _read_goal(options)
        if seed is not None:
            self._generator = np.random.default_rng(seed)
        # Drawn in any case, so that the option does not shift later episodes.
        drawn = self._generator.uniform(-GOAL_REACH, GOAL_REACH, 3) + GOAL_CENTRE
        self._goal = drawn if chosen is None else chosen
        self._restart()

    def _restart(self) -> None:
        super()._restart()
        self._data.mocap_pos[0] = self._goal

    def _command(self, action: NDArray[np.float32]) -> None:
        data, share = self._data, action.astype(np.float64)
        from_centre = data.site_xpos[self._tool] - GOAL_CENTRE
        # No faster than it takes to the wall of the box within one control period.
        slowest = (-TOOL_REACH - from_centre) * self.control_hz
        fastest = (TOOL_REACH - from_centre) * self.control_hz
        velocity = np.clip(share[:3] * MAX_SPEED, slowest, fastest)
        data.ctrl[:_JOINTS] = self._hand.joint_velocities(data, velocity)
        data.ctrl[_JOINTS:] = share[3] * MAX_GRIPPER_SPEED / 2  # of each finger
        # The drives pull towards positions that run ahead with these velocities. They start from
        # what is measured, by as much ahead as the drives' own damping holds the joints back.
        data.act[:_JOINTS] = data.qpos[:_JOINTS] + self._lag * data.ctrl[:_JOINTS]

    def _hold(self) -> None:
        self._data.ctrl[:] = 0.0
        self._data.act[:_JOINTS] = self._data.qpos[:_JOINTS]

    def _measure(self) -> dict[str, NDArray[np.float32]]:
        data, felt = self._data, self.felt.values
        tool = data.site_xpos[self._tool]
        felt["joint_pos"][:] = data.qpos[:_JOINTS]
        felt["joint_vel"][:] = data.qvel[:_JOINTS]
        felt["gripper_opening"][:] = data.qpos[_JOINTS] + data.qpos[_JOINTS + 1]
        felt["achieved_goal"][:] = tool
        felt["desired_goal"][:] = self._goal
        felt["goal_difference"][:] = self._goal - tool
        return self.felt.clipped()


def _read_goal(options: Mapping[str, Value]) -> NDArray[np.float64] | None:
    """Return the goal that the options ask for, or None.

    Raises:
        UnknownOptionError: Saying which option or value is not possible, and what is.
    """
    for name in options:
        if name != "goal":
            raise UnknownOptionError(f"arm has no reset option {name!r}; it has 'goal'")
    given: Any = options.get("goal")
    if given is None:
        return None
    try:
        goal = [float(value) for value in given]
    except (TypeError, ValueError):
        goal = []
    limit = TOOL_REACH
    is_inside = len(goal) == 3 and all(
        abs(value - centre) <= limit for value, centre in zip(goal, GOAL_CENTRE, strict=True)
    )
    if not is_inside:
        box = " x ".join(f"{c - limit:g} to {c + limit:g}" for c in GOAL_CENTRE)
        raise UnknownOptionError(
            f"reset option 'goal' must be [x, y, z] within {box} m, not {given!r:.80}",
            code="robot.option.goal",
        )
    return np.array(goal)
