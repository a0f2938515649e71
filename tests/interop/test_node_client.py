"""A client in another language, written from docs/protocol.md alone, against the real server."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import time
from math import isfinite
from typing import ClassVar

import numpy as np
import pytest
import sample_robots
from gymnasium import spaces
from looking_robots import Looker, capture

import tests.golden
from remote_env.protocol import (
    Bye,
    Cancel,
    EmergencyStop,
    GetStatistics,
    Heartbeat,
    Hello,
    Layouts,
    Observe,
    OnStale,
    Ping,
    Pong,
    Probe,
    Release,
    ReleaseStop,
    Reset,
    Role,
    Step,
    Subscribe,
    decode,
)
from remote_env.protocol.codec import SERVER_LIMITS
from remote_env.protocol.messages import MESSAGES, arrays_field, wire_fields
from remote_env_server import ProprioConfig, Robot
from remote_env_server.robots import make_robot
from tests.golden.expected import GOLDEN
from tests.protocol.frames import packed_frame

HERE = pathlib.Path(__file__).parent
NODE = shutil.which("node")
TOKEN = "a-token-of-enough-characters"

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs Node.js: node is not on the PATH"),
    pytest.mark.skipif(
        not all((HERE / "node_modules" / name).is_dir() for name in ("ws", "@msgpack/msgpack")),
        reason="needs the packages of tests/interop/package.json: npm install in tests/interop",
    ),
]


class Echo(Robot):
    """Observes its last action, in dtypes that JavaScript has no numbers for."""

    action_space = spaces.Dict(
        count=spaces.Box(-(2**60), 2**60, (), np.int64),
        halves=spaces.Box(-65504, 65504, (5,), np.float16),
        switches=spaces.MultiBinary(3),
    )
    reset_options: ClassVar = {"number": "a float", "names": "a list"}

    def proprio_configs(self):
        return [
            ProprioConfig("switches", 3, np.int8),
            ProprioConfig("halves", 5, np.float16),
            ProprioConfig("count", 1, np.int64),
        ]

    def reset(self, *, seed=None, options=None):
        self.options = options
        self.apply_action({"switches": np.zeros(3), "halves": np.zeros(5), "count": 0})
        return {
            "tuple": (1, None, "é"),
            "scalars": [np.float32(0.1), np.int64(2**60 + 1), np.float16(0.5), np.bool_(True)],
            "arrays": {"first": np.arange(6, dtype=np.int16).reshape(2, 3), "none": np.zeros(0)},
            "map": {3: {"$dollar": np.array(7.5)}},
            "bytes": b"\x00\xff",
            "large": 2**63,
        }

    def apply_action(self, action):
        self.update_proprio("switches", np.asarray(action["switches"], np.int8))
        self.update_proprio("halves", np.asarray(action["halves"], np.float16))
        self.update_proprio("count", np.asarray([action["count"]], np.int64))


class Homing(sample_robots.Counter):
    """Is never home, but tells how far it is."""

    def reset(self, *, seed=None, options=None):
        while True:
            self.progress(0.25, "homing")
            time.sleep(0.01)


class Slow(sample_robots.Counter):
    """Takes its time for each action."""

    def apply_action(self, action):
        super().apply_action(action)
        time.sleep(0.3)


@pytest.fixture
def node(slowdown):
    """Run Node.js in this directory."""

    def run(*arguments) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NODE, *arguments],
            cwd=HERE,
            capture_output=True,
            encoding="utf-8",
            timeout=30 * slowdown,
            check=False,
        )

    return run


@pytest.fixture
def drive(node):
    """Run drive.mjs to its good end; the JSON texts that it prints."""

    def run(url, **options):
        pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        done = node("drive.mjs", url, *pairs)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def script(node):
    """Run lines of JavaScript with a client; what they show."""

    def run(url, lines):
        done = node(
            "--input-type=module",
            "--eval",
            """
            import { createHash } from "node:crypto";
            import WebSocket from "ws";
            import { KIND, RobotClient, decodeFrame, encodeFrame, float64 } from "./client.mjs";
            const url = process.argv[1];
            const show = (what) => console.log(JSON.stringify(what, (key, value) => {
              if (typeof value === "bigint") return `${value}n`;
              if (ArrayBuffer.isView(value)) return [value.constructor.name, ...value].map(
                (item) => typeof item === "number" && !Number.isFinite(item) ? `${item}` : item);
              return value instanceof Map ? [...value] : value;
            }));
            const code = (promise) => promise.then(() => "no error", (error) => error.code);
            const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
            """
            + lines,
            url,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def first_numbers(observation):
    if not isinstance(observation, dict):
        observation = {"observation": observation}
    return {name: array.reshape(-1)[:8].tolist() for name, array in observation.items()}


def trajectory(env, seed, steps):
    """What drive.mjs prints, from the Python client."""
    observation, info = env.reset(seed=seed)
    yield {"step": 0, "observation": first_numbers(observation), "info": info}
    space = env.action_space
    discrete = np.issubdtype(space.dtype, np.integer)
    action = np.full(space.shape, 0 if discrete else 0.25, space.dtype)[()]
    for step in range(1, steps + 1):
        observation, reward, terminated, truncated, info = env.step(action)
        yield {
            "step": step,
            "reward": float(reward),
            "terminated": terminated,
            "truncated": truncated,
            "observation": first_numbers(observation),
            "info": info,
        }
        if terminated or truncated:
            break


def without_remote(lines):
    """The client's own entry in ``info`` is not the robot's."""
    return [
        line | {"info": {key: value for key, value in line["info"].items() if key != "remote"}}
        for line in lines
    ]


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        pytest.param(lambda: make_robot("double-pendulum"), 40, id="double-pendulum"),
        pytest.param(lambda: make_robot("gymnasium:CartPole-v1"), 40, id="CartPole"),
    ],
)
def test_node_gets_the_very_trajectory_that_python_gets(serve, connect, drive, make, steps):
    url = serve(make()).url
    _, *from_node = drive(url, seed=3, steps=steps)
    from_python = list(trajectory(connect(url), 3, steps))
    assert from_node == without_remote(from_python)
    assert len(from_node) > 5
    assert from_node[-1]["terminated"]


def test_node_counts_like_python_and_gets_the_robots_info(serve, connect, drive):
    robot = sample_robots.Counter()
    url = serve(robot).url
    _, *from_node = drive(url, seed=5, steps=4)
    assert [list(action) for action in robot.actions] == [[0.25, 0.25]] * 4
    assert from_node[-1]["info"] == {"steps": 4}
    robot.actions.clear()
    assert from_node == without_remote(trajectory(connect(url), 5, 4))


def test_another_seed_gives_node_another_trajectory(serve, drive):
    url = serve(make_robot("double-pendulum")).url
    assert drive(url, seed=3, steps=1) != drive(url, seed=4, steps=1)


def test_node_reads_who_the_robot_is(serve, drive):
    (about, *_) = drive(serve(make_robot("double-pendulum")).url, seed=1, steps=1)
    assert about["name"] == "double-pendulum"
    assert about["mode"] == "lockstep"
    assert {"joint_pos", "joint_vel", "camera/image", "camera/depth"} <= set(about["streams"])


def test_pictures_on_request_arrive_in_node_bit_by_bit(serve, connect, drive, script):
    url = serve(make_robot("double-pendulum")).url
    names = ["camera/image", "joint_pos", "camera/depth"]
    _, driven = drive(url, seed=3, steps=0, streams=",".join(names))
    (hashes,) = script(
        url,
        """
        const robot = await RobotClient.connect(url);
        await robot.subscribe(["camera/image", "joint_pos", "camera/depth"]);
        const { observation } = await robot.reset({ seed: 3 });
        show([...observation].map(([name, array]) =>
          [name, createHash("sha256").update(array).digest("hex")]));
        await robot.close();
        """,
    )
    observation, _ = connect(url, streams=names).reset(seed=3)
    pictures = {name: observation[name] for name in names}
    assert list(driven["observation"]) == names
    assert driven["observation"] == first_numbers(pictures)
    assert dict(hashes) == {
        name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in pictures.items()
    }
    assert len(np.unique(pictures["camera/image"])) > 2


def test_a_stream_that_does_not_exist_is_a_configuration_error(serve, node):
    url = serve(sample_robots.Counter()).url
    done = node("drive.mjs", url, "--streams", "sum,bogus")
    assert done.returncode == 1
    error = json.loads(done.stderr)
    assert error["error"] == "configuration"
    assert "bogus" in error["message"]


@pytest.mark.parametrize("token", [None, "a-token-that-somebody-guessed"])
def test_a_wrong_token_ends_with_the_code_of_the_error(serve, node, token):
    url = serve(sample_robots.Counter(), token=TOKEN).url
    done = node("drive.mjs", url, *([] if token is None else ["--token", token]))
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"] == "robot.access.token"
    assert done.stdout == ""


def test_the_right_token_opens_the_door(serve, drive):
    url = serve(sample_robots.Counter(), token=TOKEN).url
    assert len(drive(url, token=TOKEN, steps=2)) == 4


def test_nothing_listening_is_told(serve, node):
    server = serve(sample_robots.Counter())
    server.stop()
    done = node("drive.mjs", server.url)
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"] == "transport.connect"


def test_a_refused_action_moves_nothing_and_the_episode_goes_on(serve, script):
    robot = sample_robots.Counter()
    shown = script(
        serve(robot).url,
        """
        const robot = await RobotClient.connect(url);
        await robot.reset({ seed: 1 });
        show(await code(robot.step([Float32Array.of(NaN, 0)])));
        show(await code(robot.step([Float32Array.of(0, Infinity)])));
        show(await code(robot.step([Float32Array.of(0, 3)])));
        show((await robot.step([Float32Array.of(0.5, -0.5)])).step);
        show((await robot.step([[0.5, -0.5]])).step);
        await robot.release();
        show(await code(robot.step([[0.5, -0.5]])));
        show(await robot.close());
        """,
    )
    assert shown == [
        "robot.action.not_finite",
        "robot.action.not_finite",
        "robot.action.bounds",
        1,
        2,
        "robot.lease.none",
        1000,
    ]
    assert [list(action) for action in robot.actions] == [[0.5, -0.5]] * 2


def test_a_step_before_the_reset_is_refused_and_the_server_lives(serve, drive, script):
    robot = sample_robots.Counter()
    url = serve(robot).url
    refused, closed = script(
        url,
        """
        const robot = await RobotClient.connect(url);
        show(await code(robot.step([Float32Array.of(0, 0)])));
        show(await robot.closed);
        """,
    )
    assert refused == "protocol.remote"
    assert closed == 1002
    assert robot.actions == []
    assert len(drive(url, steps=2)) == 4


def test_another_wire_version_is_told_to_the_client(serve, drive, script):
    url = serve(sample_robots.Counter()).url
    (answer,) = script(
        url,
        """
        const who = { role: "control", token: null, owner: "", process: "p", client: "c" };
        const hello = { ...who, resume: null, asking: 0 };
        const socket = new WebSocket(url, "remote-robot-env", { perMessageDeflate: false });
        socket.on("open", () => socket.send(encodeFrame(KIND.Hello, 1, hello, [], 1)));
        let answer;
        socket.on("message", (bytes) => { answer = decodeFrame(bytes); });
        socket.on("close", (closed) => show({ closed, ...answer }));
        """,
    )
    assert answer["kind"] == 14
    assert answer["id"] == 0
    assert answer["closed"] == 1002
    assert answer["fields"]["code"] == "protocol.version"
    assert "speaks 5;" in answer["fields"]["message"]
    assert "1" in answer["fields"]["message"]
    assert len(drive(url, steps=2)) == 4


def test_node_tells_a_server_of_another_wire_version(script):
    shown = script(
        "unused",
        """
        const frame = encodeFrame(KIND.Bye, 0, { reason: "" }, [], 1);
        try { decodeFrame(frame); } catch (error) { show([error.code, error.message]); }
        """,
    )
    assert shown == [["protocol.version", "the server speaks version 1, this client 5"]]


def test_what_json_cannot_say_comes_over_in_both_directions(serve, script):
    robot = Echo()
    begun, stepped = script(
        serve(robot).url,
        """
        const robot = await RobotClient.connect(url);
        const options = { number: float64(1), names: { $t: ["a", 2] } };
        const { info, observation } = await robot.reset({ seed: 2n ** 60n, options });
        show({ info, observation });
        const [count, halves] = [[2n ** 59n + 1n], [0.1, -65504, 6e-8, 2051, 0.7]];
        show((await robot.step([count, halves, [1, 0, 1]])).observation);
        await robot.close();
        """,
    )
    assert robot.options == {"number": 1.0, "names": ("a", 2)}
    assert type(robot.options["number"]) in (float, np.float64)
    info = begun["info"]
    assert info["tuple"] == [1, None, "é"]
    assert info["scalars"] == [float(np.float32(0.1)), f"{2**60 + 1}n", 0.5, True]
    assert info["arrays"] == {"first": ["Int16Array", 0, 1, 2, 3, 4, 5], "none": ["Float64Array"]}
    assert info["map"] == [[3, [["$dollar", ["Float64Array", 7.5]]]]]
    assert info["bytes"] == ["Uint8Array", 0, 255]
    assert info["large"] == f"{2**63}n"
    halves = np.array([0.1, -65504, 6e-8, 2051, 0.7], np.float16)
    assert dict(stepped) == {
        "switches": ["Int8Array", 1, 0, 1],
        "halves": ["Float32Array", *halves.astype(float).tolist()],
        "count": ["BigInt64Array", f"{2**59 + 1}n"],
    }


@pytest.mark.realtime
def test_heartbeats_keep_the_lease_of_a_node_client_that_thinks(serve, script):
    shown = script(
        serve(sample_robots.Counter()).url,
        """
        const [first, second] = [await RobotClient.connect(url), await RobotClient.connect(url)];
        await first.reset();
        await sleep(2.6);
        show(await code(second.reset()));
        show((await first.step([[0, 0]])).step);
        show(await code(second.reset({ take: true })));
        show(await code(first.step([[0, 0]])));
        await Promise.all([first.close(), second.close()]);
        """,
    )
    assert shown == ["robot.lease.taken", 1, "no error", "robot.lease.lost"]


def is_plain(value):
    """Whether JSON says it as it is."""
    if isinstance(value, (tuple, list)):
        return all(map(is_plain, value))
    return isinstance(value, (bool, int, str)) or (isinstance(value, float) and isfinite(value))


def test_node_reads_the_golden_frames_of_a_server(script):
    names = [name for name, message in GOLDEN.items() if message.SENDER is not Role.CLIENT]
    shown = script(
        str(pathlib.Path(tests.golden.__file__).parent),
        """
        import { readFileSync } from "node:fs";
        const read = (name, observed) => decodeFrame(readFileSync(`${url}/${name}.bin`), observed);
        const { fields: { streams, subscribed } } = read("02-welcome");
        const observed = subscribed.map((name) => streams.find(([other]) => name === other));
        for (const name of """
        + json.dumps(names)
        + """) {
          const { kind, id, fields } = read(name, observed);
          show([kind, id, fields]);
        }
        show(read("26-observation", observed).fields);
        """,
    )
    *frames, seen = shown
    assert [(kind, i) for kind, i, _ in frames] == [(GOLDEN[n].KIND, GOLDEN[n].id) for n in names]
    for message, (_, _, fields) in zip(map(GOLDEN.get, names), frames, strict=True):
        said = {name: getattr(message, name) for name, _ in wire_fields(type(message))}
        arrays = {"observation"} if arrays_field(type(message)) else set()
        assert fields.keys() == {*said, *arrays}
        plain = {name: value for name, value in said.items() if is_plain(value)}
        assert {name: fields[name] for name in plain} == {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in plain.items()
        }
    assert seen["dropped"] == 3
    assert seen["sequences"] == [1501, 1502, 0]
    assert dict(seen["observation"])["joint_pos"] == ["Float32Array", 0.5, -0.25, 1]


def test_node_refuses_a_header_of_another_form(script):
    """Of a Pong: with names, of another number of values, with a list of arrays that is none."""
    headers = [
        b"\x81\xa4time\xcb" + bytes(8),
        b"\x90",
        b"\x92\xcb" + bytes(8) + b"\xc0",
        b"\x92\xcb" + bytes(8) + b"\x90",
        b"\x93\xcb" + bytes(8) + b"\x91\x92\xa3<f4\x91\x00" * 2,
        b"\xcb" + bytes(8),
        b"\x91\xcb" + bytes(8),
        b"\x92\xcb" + bytes(8) + b"\x91\x92\xa3<f4\x91\x00",
    ]
    frames = [packed_frame(Pong.KIND, header).hex() for header in headers]
    shown = script(
        "unused",
        f"for (const hex of {json.dumps(frames)}) {{"
        """
          try {
            show(decodeFrame(Buffer.from(hex, "hex")).fields.time);
          } catch (error) {
            show(error.code);
          }
        }
        """,
    )
    assert shown == ["protocol.remote"] * 6 + [0, 0]


def test_node_writes_only_the_fields_of_the_message(script):
    shown = script(
        "unused",
        """
        const wrong = [{}, { hz: 1, id: 2 }, { rate: 1 }, { hz: 1, arrays: [] }];
        for (const fields of wrong) {
          try { encodeFrame(KIND.Observe, 1, fields); } catch (error) { show(error.code); }
        }
        """,
    )
    assert shown == ["protocol.local"] * 4


def test_node_reads_what_it_asked_for_and_the_bytes_of_what_is_encoded(serve, script):
    shown = script(
        serve(Looker()).url,
        """
        const robot = await RobotClient.connect(url);
        show(robot.welcome.capabilities);
        const requests = {
          "cam/image": { codec: "jpeg", quality: 70 }, "cam/depth": { crop: [0, 0, 40, 50] },
        };
        await robot.subscribe(["cam/image", "steps", "cam/depth"], { requests });
        await robot.reset();
        const { observation } = await robot.step([[0]]);
        const [image, steps, depth] = observation.values();
        show([...image.subarray(0, 3), ...image.subarray(-2)]);
        show([image.constructor.name, steps[0], depth.length, depth[49]]);
        await robot.close();
        """,
    )
    assert shown[0] == ["codec.jpeg", "codec.depth16"]
    assert shown[1] == [0xFF, 0xD8, 0xFF, 0xFF, 0xD9]
    assert shown[2] == ["Uint8Array", 1, 40 * 50, pytest.approx(capture(2)["depth"][0, 49])]


def test_the_server_reads_what_node_writes(script):
    frames = script(
        "unused",
        """
        const hex = (...what) => show(Buffer.from(encodeFrame(...what)).toString("hex"));
        hex(KIND.Observe, 2, { hz: 30 });
        hex(KIND.Observe, 2, { hz: 12.5 });
        hex(KIND.EmergencyStop, 9, { reason: "a hand in the cell" });
        hex(KIND.Hello, 1, {
          asking: 8, resume: "s", client: "c", process: "p", owner: "o", token: null,
          role: "observe",
        });
        hex(KIND.Subscribe, 3, { streams: ["a"], max_ages: { a: 2 }, on_stale: "raise", kept: [],
          requests: {} });
        hex(KIND.Reset, 4, { seed: 5, options: { a: [1] }, take: true, max_steps: 7 });
        hex(KIND.Step, 5, { episode: 1, step: 2, tick: 3, dtypes: [] });
        hex(KIND.Bye, 0, { reason: "done" });
        hex(KIND.Cancel, 0, { request: 4 });
        hex(KIND.Probe, 6, { size: 512 });
        for (const name of ["Release", "Ping", "ReleaseStop", "GetStatistics"]) {
          hex(KIND[name], 7, {});
        }
        hex(KIND.Heartbeat, 0, {});
        """,
    )
    messages = [decode(bytes.fromhex(f), Layouts(), limits=SERVER_LIMITS) for f in frames]
    assert messages == [
        Observe(id=2, hz=30),
        Observe(id=2, hz=12.5),
        EmergencyStop(id=9, reason="a hand in the cell"),
        Hello(
            id=1,
            role="observe",
            token=None,
            owner="o",
            process="p",
            client="c",
            resume="s",
            asking=8,
        ),
        Subscribe(id=3, streams=("a",), max_ages={"a": 2}, on_stale=OnStale.RAISE, kept=()),
        Reset(id=4, seed=5, options={"a": [1]}, take=True, max_steps=7),
        Step(id=5, episode=1, step=2, tick=3, dtypes=(), action=()),
        Bye(reason="done"),
        Cancel(request=4),
        Probe(id=6, size=512),
        *(kind(id=7) for kind in (Release, Ping, ReleaseStop, GetStatistics)),
        Heartbeat(),
    ]
    assert {type(message) for message in messages} == {
        kind for kind in MESSAGES.values() if kind.SENDER is not Role.SERVER
    }


def test_node_stops_the_robot_and_releases_it(serve, script):
    shown = script(
        serve(sample_robots.Counter()).url,
        """
        const robot = await RobotClient.connect(url, { owner: "ada" });
        await robot.reset();
        const watcher = await RobotClient.connect(url, { role: "observe", owner: "zoe" });
        await watcher.emergencyStop("a hand in the cell");
        const { terminated, truncated, end_reason: why } = await robot.step([[0, 0]]);
        show([terminated, truncated, why]);
        show((await robot.statistics()).emergency_stop);
        show([await code(robot.reset()), await code(watcher.releaseStop())]);
        show([await robot.releaseStop(), await robot.releaseStop()]);
        show(await code(robot.reset()));
        await Promise.all([robot.close(), watcher.close()]);
        """,
    )
    assert shown == [
        [False, True, "emergency_stop"],
        {"by": "zoe", "reason": "a hand in the cell", "obeyed": True},
        ["robot.emergency_stop", "robot.access.role"],
        [True, False],
        "no error",
    ]


def test_node_is_told_of_the_progress_of_a_reset_and_gives_it_up(serve, script):
    shown = script(
        serve(Homing()).url,
        """
        const robot = await RobotClient.connect(url);
        const onProgress = ({ fraction, text }) => {
          show([fraction, text]);
          robot.cancel();
        };
        show(await code(robot.reset({ onProgress })));
        await robot.close();
        """,
    )
    assert shown[0] == [0.25, "homing"]
    assert shown[-1] == "robot.cancelled"


def test_the_learners_own_limit_of_steps_ends_the_episode(serve, script):
    shown = script(
        serve(sample_robots.Counter()).url,
        """
        const robot = await RobotClient.connect(url);
        await robot.reset({ maxSteps: 2 });
        show((await robot.step([[0, 0]])).truncated);
        show((await robot.step([[0, 0]])).end_reason);
        await robot.close();
        """,
    )
    assert shown == [False, "time_limit"]


def test_node_observes_what_another_client_does(serve, script):
    (seen,) = script(
        serve(sample_robots.Counter()).url,
        """
        const [robot, watcher] = [
          await RobotClient.connect(url), await RobotClient.connect(url, { role: "observe" })];
        await robot.reset({ seed: 1 });
        const third = new Promise((done) => watcher.observe(1000, (seen) => {
          if (seen.step === 3) done(seen);
        }));
        for (let step = 1; step <= 3; step += 1) await robot.step([[0.5, 0.5]]);
        const { episode, step, observation } = await third;
        const { observation: last } = await robot.step([[0, 0]]);
        show([episode, step, JSON.stringify([...observation]) === JSON.stringify([...last])]);
        await Promise.all([robot.close(), watcher.close()]);
        """,
    )
    assert seen == [1, 3, True]


@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_step_over_a_cut_connection_is_executed_once(serve, script, moment):
    robot = Slow()
    shown = script(
        serve(robot).url,
        f"""
        const robot = await RobotClient.connect(url);
        await robot.reset();
        if ("{moment}" === "before") robot.cut();
        const done = robot.step([[0.5, -0.5]]);
        await sleep(0.1);
        if ("{moment}" === "during") robot.cut();
        show((await done).step);
        show((await robot.step([[0.25, 0]])).step);
        show(robot.resumptions);
        show(await robot.close());
        """,
    )
    assert shown == [1, 2, 1, 1000]
    assert [list(action) for action in robot.actions] == [[0.5, -0.5], [0.25, 0]]


def test_a_session_that_the_server_does_not_know_is_not_resumed(serve, script):
    shown = script(
        serve(sample_robots.Counter()).url,
        """
        const robot = await RobotClient.connect(url);
        await robot.reset();
        robot.welcome.session = "guessed";
        robot.cut();
        show(await code(robot.step([[0, 0]])));
        show(robot.resumptions);
        """,
    )
    assert shown == ["transport.lost", 0]
