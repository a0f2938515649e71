"""``remote-env eval`` from its options to the report, and once more after it was killed."""

import json
import logging
import re
import threading
import time

import pytest
from made_up_episodes import ROBOTS, about, episode
from reaching import Reach

from remote_env import ConfigurationError, RemoteRobotEnv, RobotFaultError, TransportError
from remote_env.cli import main
from remote_env.version import __version__
from remote_env_agents import (
    EpisodeKey,
    EvalConfig,
    Evaluation,
    Job,
    PolicyIdentity,
    RandomPolicy,
    eval_command,
    evaluate,
)
from remote_env_agents.keys import cross
from remote_env_agents.report import EvaluationFolder
from remote_env_agents.results import read_results
from remote_env_server import RobotServer

RANDOM = RandomPolicy(Reach.action_space)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "evaluation"


def run(urls, folder, *more, policy="random", episodes="6"):
    chosen = ["--policy", policy, "--episodes", episodes, "--seed", "0", "--folder", str(folder)]
    return main(["eval", *urls, *chosen, *more])


def returns_of(path):
    return {one.key: one.episode_return for one in read_results(path).episodes}


def test_it_leaves_a_report_and_every_episode(serve, folder, capsys):
    assert run([serve(Reach()).url, serve(Reach()).url], folder) == 0
    shown = capsys.readouterr()
    assert f"report: {folder}/report.html" in shown.out
    assert f"--folder {folder} goes on" in shown.err
    assert "a step took" in shown.out
    assert "6 of 6 episodes" in (folder / "report.html").read_text()
    assert json.loads((folder / "summary.json").read_text())["episodes"] == 6
    assert len(read_results(folder / "episodes.jsonl").episodes) == 6


def test_without_a_folder_it_takes_the_next_free_one(serve, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = serve(Reach()).url
    for _ in range(2):
        assert main(["eval", url, "--policy", "random", "--episodes", "1"]) == 0
    names = [path.name for path in sorted((tmp_path / "evaluations").iterdir())]
    assert names == ["Reach-random-1", "Reach-random-2"]


def test_after_a_kill_the_same_command_does_only_what_is_missing(serve, folder):
    robots = [Reach(), Reach()]
    urls = [serve(robot).url for robot in robots]
    assert run(urls, folder) == 0
    results = folder / "episodes.jsonl"
    wanted = returns_of(results)
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:5]) + lines[5][:40])  # killed in the middle of a line
    kept = set(returns_of(results))
    for robot in robots:
        robot.seeds.clear()
    assert run(urls, folder) == 0
    assert sorted(robots[0].seeds + robots[1].seeds) == sorted(
        key.seed for key in wanted.keys() - kept
    )
    assert returns_of(results) == wanted
    assert read_results(results).sessions == 2


def test_what_is_complete_is_shown_and_needs_no_robot(serve, folder, capsys):
    robot = Reach()
    server = serve(robot)
    assert run([server.url], folder) == 0
    server.stop()
    (folder / "report.html").unlink()
    robot.seeds.clear()
    capsys.readouterr()
    assert run([server.url], folder) == 0
    assert "is complete: nothing is run" in capsys.readouterr().out
    assert main(["eval", "--folder", str(folder)]) == 0
    assert "ended by 6 time_limit" in capsys.readouterr().out
    assert (folder / "report.html").exists()
    assert robot.seeds == []


def test_what_is_complete_with_other_streams_is_another_evaluation(serve, tmp_path):
    url, results = serve(Reach()).url, tmp_path / "episodes.jsonl"
    options = {"episodes": 2, "results": results}
    evaluate("random", [url], **options, streams=["goal_difference"])
    again = evaluate("random", ["ws://127.0.0.1:1"], **options, streams=("goal_difference",))
    assert again.about.streams == ("goal_difference",)
    with pytest.raises(ConfigurationError, match="streams was .*goal_difference.* and is"):
        evaluate("random", [url], **options, streams=["achieved_goal"])


def test_what_is_complete_with_another_version_is_another_evaluation(serve, tmp_path):
    url, results = serve(Reach()).url, tmp_path / "episodes.jsonl"
    evaluate("random", [url], episodes=2, results=results)
    text = results.read_text()
    results.write_text(text.replace(f'"{__version__}"', '"0.0.1"', 1))
    with pytest.raises(ConfigurationError, match="remote-robot-env was 0.0.1"):
        evaluate("random", [url], episodes=2, results=results)


def test_another_evaluation_in_the_folder_is_refused(serve, folder, capsys):
    robot = Reach()
    url = serve(robot).url
    assert run([url], folder, episodes="2") == 0
    robot.seeds.clear()
    assert run([url], folder, episodes="3") == 1
    assert "the list of episodes was 2 with the hash" in capsys.readouterr().err
    assert robot.seeds == []


def test_a_folder_without_an_evaluation_says_so(tmp_path, capsys):
    assert main(["eval", "--folder", str(tmp_path)]) == 1
    assert "there is no evaluation in" in capsys.readouterr().err


class Sided(Reach):
    """Has a side for its goal."""

    reset_options = {"side": "left or right"}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        self.options = [*getattr(self, "options", []), (seed, (options or {}).get("side"))]
        super().reset(seed=seed)


def test_each_seed_is_run_with_each_of_the_options(serve, folder, tmp_path):
    (tmp_path / "options").write_text('{"side": "left"}\n{"side": "right"}\n')
    robot = Sided()
    options = ["--options", str(tmp_path / "options")]
    assert run([serve(robot).url], folder, *options, episodes="2") == 0
    assert robot.options == [(0, "left"), (0, "right"), (1, "left"), (1, "right")]
    assert "{&quot;side&quot;:&quot;left&quot;}" in (folder / "report.html").read_text()


def test_an_option_that_the_robot_does_not_know_ends_it(serve, folder, tmp_path, capsys):
    (tmp_path / "options").write_text('{"colour": "red"}\n')
    options = ["--options", str(tmp_path / "options"), "--patience", "1000"]
    assert run([serve(Sided()).url], folder, *options) == 1
    assert "reset option 'colour' is not known" in capsys.readouterr().err


def test_the_worst_are_filmed_and_linked(serve, folder, capsys):
    pytest.importorskip("av", reason="needs the extra [video]")
    url = serve(Reach()).url
    assert run([url], folder, "--video-of", "worst", "--videos", "1") == 0
    found = returns_of(folder / "episodes.jsonl")
    worst = min(found, key=found.get)
    video = folder / "videos" / f"seed-{worst.name}.mp4"
    assert f"video: {video}, 25 frames" in capsys.readouterr().out
    assert video.stat().st_size > 0
    page = (folder / "report.html").read_text()
    assert f'<video controls preload="metadata" src="videos/seed-{worst.name}.mp4">' in page
    assert "just as it was counted" in page
    assert run([url], folder, "--video-of", "2", "4") == 0  # of a complete evaluation
    assert len(list((folder / "videos").glob("*.mp4"))) in (2, 3)


def test_a_return_of_nan_is_the_worst_then_the_lowest():
    keys = cross(range(4))
    returns = [-3.0, float("nan"), -10.0, float("-inf")]
    episodes = [episode(n, episode_return=returned) for n, returned in enumerate(returns)]
    made = Evaluation(tuple(episodes), (), (), ROBOTS, 1.0, about(keys))
    config = EvalConfig(ROBOTS, policy="random", video_of=("worst",), videos=3)
    chosen = eval_command.episodes_to_film(config, keys, made)
    assert [key.seed for key in chosen] == [1, 3, 2]


def films_in(folder):
    return (folder / "report.html").read_text().count("<video ")


def test_films_stay_in_the_report_of_who_only_looks(serve, folder, monkeypatch):
    pytest.importorskip("av", reason="needs the extra [video]")
    url = serve(Reach()).url
    assert run([url], folder, "--video-of", "0", "1") == 0
    assert films_in(folder) == 2
    assert main(["eval", "--folder", str(folder)]) == 0
    assert films_in(folder) == 2
    assert run([url], folder) == 0
    assert films_in(folder) == 2

    made = eval_command.record_episodes

    def fail_later(path, *arguments, seeds, **options):
        if seeds[0].seed == 4:
            raise RobotFaultError("smoke")
        return made(path, *arguments, seeds=seeds, **options)

    monkeypatch.setattr(eval_command, "record_episodes", fail_later)
    assert run([url], folder, "--video-of", "3", "4") == 1
    assert films_in(folder) == 3
    (folder / "videos" / "seed-1.mp4").unlink()
    assert main(["eval", "--folder", str(folder)]) == 0
    assert films_in(folder) == 2


def test_films_of_different_episodes_have_different_names(tmp_path):
    names = [
        EpisodeKey(7, options).name
        for options in ({"pose": "a b"}, {"pose": "a-b"}, {"pose": list(range(200))}, {})
    ]
    files = {EvaluationFolder(tmp_path).video(f"seed-{name}").name for name in names}
    assert len(files) == 4
    assert max(map(len, files)) < 120
    assert "seed-7.mp4" in files


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--video-of", "best"], 2, "is one of first, failures, worst, or seeds, not best"),
        (["--video-of", "first", "--cameras", "x"], 1, "no camera stream 'x'"),
    ],
)
def test_films_that_cannot_be_are_refused_before_anything_moves(
    serve, folder, capsys, options, code, message
):
    pytest.importorskip("av", reason="needs the extra [video]")
    robot = Reach()
    assert run([serve(robot).url], folder, *options) == code
    assert message in " ".join(re.sub("[│|]", " ", capsys.readouterr().err).split())
    assert robot.seeds == []
    assert not folder.exists()


# The same as a function


def test_a_robot_that_dies_and_returns_at_its_port_is_used_again(caplog, monkeypatch):
    monkeypatch.setattr("remote_env_agents.executor._RECONNECT", 0.2)
    dying, other = RobotServer(Reach(), port=0), RobotServer(Reach(), port=0)
    dying.start()
    other.start()
    url, servers, back = dying.url, [dying, other], []

    def note(episode):
        is_noticed = "is out for now" in caplog.text
        if is_noticed and len(servers) == 2:
            servers.append(RobotServer(Reach(), port=int(url.rpartition(":")[2])))
            servers[-1].start()
        if episode.robot != url and not back:
            time.sleep(0.02)  # that one must not be done with everything meanwhile
        elif episode.robot == url and not episode.spoiled:
            dying.stop()
            back.extend([episode] * is_noticed)

    try:
        with caplog.at_level(logging.WARNING, "remote_env_agents"):
            evaluation = evaluate(RANDOM, [url, other.url], episodes=150, seed=0, on_episode=note)
    finally:
        for server in servers:
            server.stop()
    assert [one.seed for one in evaluation.episodes] == list(range(150))
    events = [(event.robot, event.what) for event in evaluation.events]
    assert events == [(url, "lost"), (url, "returned")]
    assert back


def test_when_all_robots_are_lost_what_was_done_is_kept(serve, tmp_path):
    class Weak(Reach):
        def reset(self, *, seed=None):
            if len(self.seeds) == 3:
                raise RuntimeError("no power")
            super().reset(seed=seed)

    weak = serve(Weak()).url
    results = tmp_path / "episodes.jsonl"
    with pytest.raises(RobotFaultError, match="no power"):
        evaluate(RANDOM, [weak], episodes=8, seed=0, results=results, patience=0.2)
    sound = Reach()
    evaluation = evaluate(RANDOM, [serve(sound).url, weak], episodes=8, seed=0, results=results)
    assert [one.seed for one in evaluation.episodes] == list(range(8))
    assert not {0, 1, 2} & set(sound.seeds)
    assert evaluation.sessions == 2
    assert evaluation.deaths >= 1


def test_who_goes_on_needs_not_all_robots_and_who_begins_does(serve, tmp_path):
    server, other = serve(Reach()), serve(Reach())
    results = tmp_path / "episodes.jsonl"
    done = []

    def stop_after_three(episode):
        done.append(episode)
        if len(done) == 3:
            raise KeyboardInterrupt

    urls = [server.url, other.url]
    with pytest.raises(KeyboardInterrupt):
        evaluate(RANDOM, urls, episodes=6, results=results, on_episode=stop_after_three)
    other.stop()
    evaluation = evaluate(RANDOM, urls, episodes=6, results=results)
    assert (len(evaluation.episodes), evaluation.missing) == (6, ())
    with pytest.raises(TransportError, match="nothing listens"):
        evaluate(RANDOM, urls, episodes=6, results=tmp_path / "new.jsonl")


def test_another_robot_at_the_port_of_one_that_was_lost_ends_it(tmp_path):
    class Other(Reach):
        def proprio_configs(self):
            return super().proprio_configs()[:2]

        def outcome(self, observation):
            return None

    server = RobotServer(Reach(), port=0)
    server.start()
    servers, port = [server], int(server.url.rpartition(":")[2])

    def replace_it(episode):
        if len(servers) == 1:
            server.stop()
            servers.append(RobotServer(Other(), port=port))
            servers[-1].start()

    try:
        with pytest.raises(ConfigurationError, match="has other spaces than before"):
            evaluate(
                lambda observation: RANDOM(observation),
                [server.url],
                episodes=9,
                results=tmp_path / "episodes.jsonl",
                on_episode=replace_it,
            )
    finally:
        for each in servers:
            each.stop()
    assert 1 <= len(read_results(tmp_path / "episodes.jsonl").episodes) < 9


def test_a_robot_that_is_connected_to_must_be_the_one_that_was_looked_at(serve):
    url = serve(Reach()).url
    job = Job(
        policy=RANDOM,
        urls=(url,),
        streams=None,
        token=None,
        max_steps=None,
        control_period=0.0,
        spec_hash="another",
        patience=1.0,
    )
    with pytest.raises(ConfigurationError, match="not the same spaces, streams and mode as before"):
        job.connect(url)


def test_a_list_of_episodes_may_be_given(serve):
    robot = Sided()
    keys = [EpisodeKey(9, {"side": "left"}), EpisodeKey(3), EpisodeKey(9)]
    evaluation = evaluate(RANDOM, [serve(robot).url], episodes=keys)
    assert [one.key for one in evaluation.episodes] == keys
    assert robot.options == [(9, "left"), (3, None), (9, None)]


def test_steps_are_timed(serve):
    evaluation = evaluate(RANDOM, [serve(Reach()).url], episodes=3)
    took = evaluation.step_times
    assert took.count == evaluation.steps == 30
    assert 0 < took.percentile(50) <= took.percentile(99) <= took.longest < 60
    assert evaluation.period_errors.counts == {}


def test_models_and_files_are_told_apart_by_their_hash(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"abc")
    known = PolicyIdentity.of(tmp_path / "a.zip")
    assert known.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert PolicyIdentity.of("random") == PolicyIdentity("random")
    assert re.search(r"returns_of$", PolicyIdentity.of(returns_of).name)
    assert PolicyIdentity.of(RANDOM).name.endswith("RandomPolicy")


def test_a_reset_that_takes_long_does_not_hold_up_an_end(serve):
    class Slow(Reach):
        def reset(self, *, seed=None):
            while True:
                time.sleep(0.01)
                self.progress(0.5)

    def confused(observation):
        raise KeyError("what?")

    with pytest.raises(KeyError, match="what"):
        evaluate(confused, [serve(Slow()).url, serve(Reach()).url], episodes=4)


@pytest.mark.timeout(30)
def test_a_reset_that_begins_when_it_was_cancelled_does_not_either(serve, monkeypatch):
    cancelled = threading.Event()
    reset, cancel = RemoteRobotEnv.reset, RemoteRobotEnv.cancel_reset

    class Endless(Reach):
        def reset(self, *, seed=None):
            while True:
                time.sleep(0.01)
                self.progress(0.5)

    endless = serve(Endless()).url

    def reset_late(env, **given):
        if env.url == endless:
            assert cancelled.wait(20)
        return reset(env, **given)

    def note(env):
        cancel(env)
        if env.url == endless:
            cancelled.set()

    monkeypatch.setattr(RemoteRobotEnv, "reset", reset_late)
    monkeypatch.setattr(RemoteRobotEnv, "cancel_reset", note)

    def confused(observation):
        raise KeyError("what?")

    with pytest.raises(KeyError, match="what"):
        evaluate(confused, [endless, serve(Reach()).url], episodes=4)
