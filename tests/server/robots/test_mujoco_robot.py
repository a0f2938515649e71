"""Any MuJoCo model can be served, and one that cannot is refused with what to do."""

import os
import sys

import gymnasium
import numpy as np
import pytest

pytest.importorskip("mujoco")

from remote_env.errors import ConfigurationError, RobotFaultError, SensorError, UnknownOptionError
from remote_env.spec import Mode
from remote_env_server.logs import wait_for_logs
from remote_env_server.robots import find_robot, headless
from remote_env_server.robots.mujoco_robot import MujocoRobot
from remote_env_server.robots.mujoco_simulation import MujocoConfig

WAY, WHY_NOT = headless.find()
needs_rendering = pytest.mark.skipif(not WAY, reason=WHY_NOT)

MODEL = """
<mujoco>
  <option timestep="{timestep}"/>
  <asset>
    <texture type="skybox" builtin="flat" rgb1="1 0 1" rgb2="1 0 1" width="8" height="8"/>
  </asset>
  <worldbody>
    <light pos="0 0 3"/>
    <geom type="plane" size="1 1 .1" rgba=".5 .5 .5 1"/>
    <body name="ball" pos="0.6 0 .5"><freejoint/><geom size=".05" rgba="1 0 0 1"/></body>
    <body pos="0 0 .5" gravcomp="1">
      <joint name="arm.hinge" axis="0 1 0" range="-90 90" damping="1" armature="0.1"/>
      <geom type="capsule" size=".03" fromto="0 0 0 0 0 .3"/>
      <site name="tip" pos="0 0 .3"/>
    </body>
    <body pos="0 .4 .5" gravcomp="1">
      <joint name="wheel" axis="0 1 0" damping="0.1" armature="0.1"/>
      <geom type="cylinder" size=".1 .02"/>
    </body>
    {camera}
  </worldbody>
  <actuator>
    <position joint="arm.hinge" kp="50" ctrlrange="-1 1"/>
    {motor}
  </actuator>
  <sensor><framepos objtype="site" objname="tip"/><jointvel name="a.b" joint="wheel"/></sensor>
  <keyframe>
    <key name="rest" qpos="0.6 0 .5 1 0 0 0 0 0"/>
    <key name="bent" qpos="0.6 0 .5 1 0 0 0 0.5 0" ctrl="0.5 0"/>
  </keyframe>
</mujoco>
"""
MOTOR = '<motor joint="wheel" ctrlrange="-2 2"/>'
CAMERA = '<camera name="top.view" pos="0.6 0 3" fovy="40"/>'


@pytest.fixture
def write(tmp_path):
    def write(*, timestep=0.002, motor=MOTOR, camera=CAMERA, text=None):
        path = tmp_path / "model.xml"
        path.write_text(text or MODEL.format(timestep=timestep, motor=motor, camera=camera))
        return path

    return write


def make(path, **options):
    robot = MujocoRobot(MujocoConfig(path, **options))
    robot.mode = Mode.LOCKSTEP
    return robot


def test_joints_actuators_and_sensors_are_streams(write):
    robot = make(write())
    shapes = {name: space.shape for name, space in robot.observation_space.items()}
    assert shapes == {
        "joint_pos": (9,),
        "joint_vel": (8,),
        "actuator_force": (2,),
        "sensor/0": (3,),
        "sensor/a_b": (1,),
    }
    assert robot.action_space == gymnasium.spaces.Box(
        np.array([-1, -2], np.float32), np.array([1, 2], np.float32)
    )
    assert (robot.name, robot.control_hz) == ("model", 50.0)


def test_what_is_measured_belongs_to_one_instant(write):
    robot = make(write())
    robot.open()
    robot.reset()
    robot.apply_action(np.array([0.8, 1.0], np.float32))
    seen = robot.get_obs()
    angle = seen["joint_pos"][7]
    assert angle != 0
    tip = [0.3 * np.sin(angle), 0.0, 0.5 + 0.3 * np.cos(angle)]
    np.testing.assert_allclose(seen["sensor/0"], tip, atol=1e-6)
    np.testing.assert_allclose(seen["sensor/a_b"], seen["joint_vel"][7:], atol=1e-6)
    force = 50 * (0.8 - angle)
    np.testing.assert_allclose(seen["actuator_force"], [force, 1.0], rtol=1e-5)


def test_to_hold_position_drives_stay_and_motors_let_go(write):
    robot = make(write())
    robot.open()
    robot.reset()
    for _ in range(20):
        robot.apply_action(np.array([0.8, 1.0], np.float32))
    robot.hold()
    angle = float(robot.get_obs()["joint_pos"][7])
    np.testing.assert_allclose(robot._data.ctrl, [angle, 0.0], atol=1e-6)


def test_a_control_period_is_as_many_steps_as_fit(write):
    robot = make(write(timestep=0.004), control_hz=25.0)
    robot.open()
    robot.reset()
    robot.apply_action(np.zeros(2, np.float32))
    assert robot._data.time == pytest.approx(0.04)
    assert make(write(timestep=0.03)).control_hz == pytest.approx(1 / 0.03)


def test_a_keyframe_can_be_chosen(write):
    robot = make(write(), keyframe="bent")
    robot.open()
    robot.reset()
    assert robot.get_obs()["joint_pos"][7] == 0.5


@pytest.mark.parametrize(
    ("written", "options", "word"),
    [
        ({"text": "<mujoco><worldbody>"}, {}, "MuJoCo cannot load"),
        ({"text": "<mujoco/>"}, {}, "no actuators"),
        ({"motor": '<motor name="m" joint="wheel"/>'}, {}, "'m' has no ctrlrange"),
        ({}, {"control_hz": 33.0}, r"such as 31.25 or 33.3333, not 33"),
        ({}, {"control_hz": -1.0}, "control_hz"),
        ({}, {"control_hz": 5000.0}, "control_hz"),
        ({}, {"keyframe": "nowhere"}, "rest.*bent"),
        ({}, {"image_size": (0, 0)}, "image_size"),
        ({}, {"max_steps": -1}, "max_steps"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do(write, written, options, word):
    with pytest.raises(ConfigurationError, match=word):
        make(write(**written), **options)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no file"):
        find_robot(f"mujoco:{tmp_path / 'no.xml'}").make(MujocoConfig(tmp_path / "no.xml"))


def test_options_that_it_does_not_know_are_refused(write):
    robot = make(write())
    robot.open()
    with pytest.raises(UnknownOptionError, match="'goal'"):
        robot.reset(options={"goal": 1})


@pytest.mark.parametrize("mode", [Mode.LOCKSTEP, Mode.REALTIME])
def test_a_simulation_that_became_unstable_says_so(
    write, serve, connect, tmp_path, monkeypatch, mode
):
    monkeypatch.chdir(tmp_path)
    path = write(
        text=MODEL.format(timestep=0.02, motor=MOTOR, camera="").replace('kp="50"', 'kp="1e9"')
    )
    env = connect(serve(MujocoRobot(MujocoConfig(path)), mode=mode).url)
    env.reset()
    with pytest.raises((RobotFaultError, SensorError), match="became unstable|thread failed"):
        for _ in range(50):
            *_, truncated, info = env.step(np.array([1.0, 0.0], np.float32))
            if truncated:
                raise SensorError(str(info["remote"]["stale"]))
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
    env.reset()


# Pictures


@needs_rendering
def test_its_cameras_are_served_by_name(write):
    robot = make(write())
    assert "top_view/image" in [stream.name for stream in robot.streams()]
    with pytest.raises(ConfigurationError, match="top_view"):
        make(write(), cameras=("side",))


@needs_rendering
def test_a_model_without_a_camera_is_seen_by_one_from_outside(write):
    robot = make(write(camera=""), image_size=(120, 160))
    robot.open()
    robot.set_subscribed(frozenset(["overview/image"]))
    robot.reset()
    image = robot.get_obs()["overview/image"]
    robot.close()
    red = (image[..., 0] > 150) & (image[..., 1] < 60)
    assert 5 < red.sum() < 4000


@needs_rendering
def test_where_there_is_nothing_depth_is_0_and_the_picture_grey(write):
    level = '<camera name="level" pos="0.6 -2 0.5" xyaxes="1 0 0 0 0 1" fovy="60"/>'
    robot = make(write(camera=level), image_size=(60, 80))
    robot.open()
    robot.set_subscribed(frozenset(["level/image"]))
    robot.reset()
    seen = robot.get_obs()
    robot.close()
    assert (seen["level/depth"][0] == 0).all()
    red, green, blue = seen["level/image"][0, 0]
    assert min(red, green, blue) > 100
    assert abs(int(red) - int(green)) < 50
    assert seen["level/depth"][30, 40] == pytest.approx(2 - 0.05, abs=0.01)


def test_without_a_way_to_render_the_rest_is_served_and_says_why(write, monkeypatch, caplog):
    monkeypatch.setattr(headless, "_loads", lambda library: False)  # no such machine is at hand
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    headless.find.cache_clear()
    try:
        robot = make(write())
    finally:
        monkeypatch.undo()
        headless.find.cache_clear()
    wait_for_logs()
    assert "apt-get install" in caplog.text
    assert "apt-get install" in robot.get_metadata()["no_camera"]
    assert not any("image" in stream.name for stream in robot.streams())


def test_mujoco_is_told_what_works_before_it_is_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "mujoco")
    for found, told in [("egl", "egl"), ("osmesa", "osmesa"), ("", "disable")]:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setattr(headless, "find", lambda found=found: (found, ""))
        headless.prepare()
        assert os.environ["MUJOCO_GL"] == told


def test_where_egl_does_not_work_osmesa_is_taken(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(headless, "_loads", lambda library: "OSMesa" in library)
    headless.find.cache_clear()
    assert headless.find() == ("osmesa", "")
    monkeypatch.undo()
    headless.find.cache_clear()


def test_what_mujoco_gl_says_counts(monkeypatch):
    for asked, found in [("osmesa", "osmesa"), ("EGL", "egl"), ("off", "")]:
        monkeypatch.setenv("MUJOCO_GL", asked)
        headless.find.cache_clear()
        assert headless.find()[0] == found
    assert "set it to 'egl'" in headless.find()[1]
    monkeypatch.undo()
    headless.find.cache_clear()


@pytest.mark.parametrize(
    ("camera", "sensor", "message"),
    [
        ('<camera name="top.view"/><camera name="top_view"/>', "", "cameras 'top.view' and"),
        ('<camera/><camera name="camera0"/>', "", "cameras 0 and 'camera0' .* as 'camera0'"),
        (CAMERA, '<clock name="a_b"/>', "sensors 'a.b' and 'a_b' .* as 'a_b'; rename one"),
    ],
)
@needs_rendering
def test_two_of_the_same_name_are_refused_and_none_is_lost(write, camera, sensor, message):
    text = MODEL.format(timestep=0.002, motor=MOTOR, camera=camera)
    path = write(text=text.replace("</sensor>", f"{sensor}</sensor>"))
    with pytest.raises(ConfigurationError, match=message):
        make(path).streams()
