"""Install a wheel in an empty environment and step the embedded robot: finds packaging faults."""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SCRIPT = """
import gymnasium, numpy, remote_env, remote_env_server, remote_env_agents
from pathlib import Path
for package in (remote_env, remote_env_server, remote_env_agents):
    assert "site-packages" in package.__file__, package.__file__
    assert (Path(package.__file__).parent / "py.typed").is_file(), package
env = gymnasium.make("RemoteRobot-v0")
observation, info = env.reset(seed=0)
assert env.observation_space.contains(observation)
for _ in range(100):
    observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    if terminated or truncated:
        env.reset()
env.close()
print("the wheel works:", sorted(observation))
"""


def main(wheel: str) -> None:
    """Try a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, Path(wheel).resolve()], check=True)
        for command in ([python, "-c", SCRIPT], [Path(folder, "bin", "remote-env"), "--version"]):
            subprocess.run(command, check=True, cwd=folder)


if __name__ == "__main__":
    main(sys.argv[1])
