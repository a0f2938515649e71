"""The robots that we ship, and how a name finds one.

========================  ==============================================================
``double-pendulum``       a cart with a double inverted pendulum; the default
``arm``                   a six-joint arm that reaches, with cameras (MuJoCo)
``mujoco:MODEL.xml``      any MuJoCo model
``gymnasium:ENV_ID``      any Gymnasium environment
``FILE.py:CLASS``         your own ``Robot`` class, in a file
``MODULE:CLASS``          your own ``Robot`` class, in an installed package
========================  ==============================================================
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from remote_env.errors import ConfigurationError
from remote_env_server.robot import Robot
from remote_env_server.robots import headless
from remote_env_server.robots.double_pendulum import DoublePendulumConfig, DoublePendulumRobot
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

__all__ = ["NAMES", "RobotRecipe", "find_robot", "make_robot"]

NAMES: Final = (
    "double-pendulum",
    "arm",
    "mujoco:MODEL.xml",
    "gymnasium:ENV_ID",
    "FILE.py:CLASS",
    "MODULE:CLASS",
)


@dataclass(frozen=True, slots=True)
class RobotRecipe:
    """How to make a robot.

    Attributes:
        config: The default options; a dataclass, or None if there are none.
        make: Makes the robot from its options.
    """

    config: Any
    make: Callable[[Any], Robot]


def find_robot(name: str) -> RobotRecipe:
    """Find a robot by its name; see the table at the top of this module.

    Raises:
        ConfigurationError: Listing the names that there are.
    """
    kind, separator, rest = name.partition(":")
    if name == "double-pendulum":
        return RobotRecipe(DoublePendulumConfig(), DoublePendulumRobot)
    if name == "arm":
        _need_mujoco()
        from remote_env_server.robots.arm import ArmConfig, ArmRobot

        return RobotRecipe(ArmConfig(), ArmRobot)
    if kind == "mujoco" and rest:
        _need_mujoco()
        from remote_env_server.robots.mujoco_robot import MujocoRobot
        from remote_env_server.robots.mujoco_simulation import MujocoConfig

        return RobotRecipe(MujocoConfig(Path(rest)), MujocoRobot)
    if kind == "gymnasium" and rest:
        return RobotRecipe(GymnasiumConfig(rest), GymnasiumRobot)
    if separator and rest:
        robot_class = _load_class(*name.rsplit(":", 1))
        return RobotRecipe(None, lambda _: robot_class())
    raise ConfigurationError(f"no robot is called {name!r}; there are {', '.join(NAMES)}")


def make_robot(name: str) -> Robot:
    """Make a robot by its name, with its default options.

    Raises:
        ConfigurationError: If there is no such robot.
    """
    recipe = find_robot(name)
    return recipe.make(recipe.config)


def _need_mujoco() -> None:
    """Import it, ready to render without a screen.

    Raises:
        ConfigurationError: If it is not installed; says how.
    """
    headless.prepare()
    try:
        importlib.import_module("mujoco")
    except ImportError as error:
        raise ConfigurationError(
            f"this robot is simulated by MuJoCo: pip install 'remote-robot-env[sim]' ({error})"
        ) from error


def _load_class(where: str, class_name: str) -> type[Robot]:
    # As "python FILE.py" does: what stands beside the file can be imported.
    beside = str(Path(where).parent) if where.endswith(".py") else str(Path.cwd())
    if beside not in sys.path:
        sys.path.insert(0, beside)
    try:
        module = (
            _load_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
        )
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"there is no module {where!r}; robots are called {', '.join(NAMES)}"
            ) from error
        raise ConfigurationError(
            f"{where} imports {error.name!r}, which is not installed"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Robot):
        raise ConfigurationError(f"{where} has no Robot class called {class_name!r}")
    return found


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
