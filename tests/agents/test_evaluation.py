"""Every seed counts exactly once, whatever happens to the robots."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from reaching import Reach, Silent, stay, straight_to_the_goal

from remote_env import ActionRefusedError, ConfigurationError, RobotFaultError, TransportError
from remote_env_agents import EpisodeKey, RandomPolicy, evaluate
from remote_env_agents.robots import look_at
from remote_env_server import Mode


def seeds_of(evaluation):
    return [episode.seed for episode in evaluation.episodes]


def test_a_policy_that_succeeds_is_told_from_one_that_does_not(serve):
    url = serve(Reach()).url
    good = evaluate(straight_to_the_goal, [url], episodes=20, seed=7)
    bad = evaluate(stay, [url], episodes=20, seed=7)
    assert (good.success_rate, good.successes) == (1.0, 20)
    assert good.interval == pytest.approx((0.8389, 1.0), abs=1e-4)
    assert bad.success_rate < 0.3
    assert bad.mean_return < good.mean_return
    assert (good.mean_length, good.steps, good.end_reasons) == (10.0, 200, {"time_limit": 20})


def test_episodes_are_handed_to_all_robots_each_seed_once(serve):
    robots = [Reach(), Reach()]
    urls = [serve(robot).url for robot in robots]
    evaluation = evaluate(straight_to_the_goal, urls, episodes=30, seed=100)
    assert seeds_of(evaluation) == list(range(100, 130))
    assert sorted(robots[0].seeds + robots[1].seeds) == list(range(100, 130))
    assert min(len(robot.seeds) for robot in robots) > 0
    assert sum(len(evaluation.of_robot(url).episodes) for url in urls) == 30


def test_what_a_seed_comes_to_does_not_depend_on_the_robot(serve):
    urls = [serve(Reach()).url for _ in range(3)]
    random = RandomPolicy(Reach.action_space)
    alone = evaluate(random, urls[:1], episodes=12)
    together = evaluate(random, urls, episodes=12)
    assert [e.episode_return for e in alone.episodes] == [
        e.episode_return for e in together.episodes
    ]
    assert alone.std_return > 0


def test_a_robot_that_dies_in_between_costs_no_seed(serve):
    dying = Reach(steps_until=37, then=lambda: threading.Thread(target=server.stop).start())
    server = serve(dying)
    other = serve(Reach()).url
    evaluation = evaluate(straight_to_the_goal, [server.url, other], episodes=25, seed=0)
    assert seeds_of(evaluation) == list(range(25))
    assert {episode.robot for episode in evaluation.spoiled} <= {server.url}
    # As far as it came before it died; on a busy machine the other may have done more.
    assert len(evaluation.of_robot(server.url).episodes) <= 3
    assert evaluation.missing == ()


def test_a_robot_that_returns_goes_on(serve):
    fails = [RuntimeError("cable"), RuntimeError("cable")]

    class Shaky(Reach):
        def reset(self, *, seed=None):
            if fails:
                raise fails.pop()
            super().reset(seed=seed)

    url = serve(Shaky()).url
    assert seeds_of(evaluate(straight_to_the_goal, [url], episodes=3, seed=0)) == [0, 1, 2]


def test_an_episode_that_is_spoiled_each_time_is_not_counted(serve):
    class Cursed(Reach):
        def apply_action(self, action):
            if self.seeds[-1] == 2:
                raise RuntimeError("no")
            super().apply_action(action)

    evaluation = evaluate(straight_to_the_goal, [serve(Cursed()).url], episodes=4, seed=0)
    assert seeds_of(evaluation) == [0, 1, 3]
    assert evaluation.missing == (EpisodeKey(2),)
    assert [(episode.seed, episode.attempt) for episode in evaluation.spoiled] == [
        (2, 1),
        (2, 2),
        (2, 3),
        (2, 4),
    ]
    assert "raised RuntimeError: no" in evaluation.spoiled[0].spoiled


class Broken(Reach):
    def reset(self, *, seed=None):
        self.seeds.append(seed)
        raise RuntimeError("no power")


def test_without_any_robot_it_fails_with_what_the_last_one_failed_with(serve):
    with pytest.raises(RobotFaultError, match="no power"):
        evaluate(stay, [serve(Broken()).url], episodes=3, patience=0.3)


def test_a_robot_that_works_again_is_not_lost_however_long_its_episode(serve, caplog):
    class Hiccup(Reach):
        def apply_action(self, action):
            if len(self.seeds) == 1:
                raise RuntimeError("hiccup")
            time.sleep(0.1)
            super().apply_action(action)

    evaluation = evaluate(stay, [serve(Hiccup()).url], episodes=1, patience=0.5)
    assert len(evaluation.episodes) == 1
    assert evaluation.missing == ()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.endswith("is back")]) == 1


def test_an_episode_that_begins_with_a_stale_observation_does_not_count(serve):
    """Its first action answers what was there before the reset."""

    class Late(Reach):
        modes = (Mode.REALTIME,)

        def proprio_configs(self):
            return [replace(config, max_age=0.15) for config in super().proprio_configs()]

        def reset(self, *, seed=None):
            super().reset(seed=seed)
            if len(self.seeds) == 1:
                time.sleep(0.3)

    evaluation = evaluate(stay, [serve(Late()).url], episodes=1)
    assert [episode.spoiled for episode in evaluation.spoiled] == ["stale_sensor"]
    assert len(evaluation.episodes) == 1


def test_an_episode_that_is_stale_when_its_time_is_up_was_spoiled_by_the_sensor(serve):
    class Stuck(Reach):
        modes = (Mode.REALTIME,)

        def proprio_configs(self):
            return [replace(config, max_age=0.15) for config in super().proprio_configs()]

        def apply_action(self, action):
            super().apply_action(action)
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == self.max_episode_steps:
                time.sleep(0.3)

    evaluation = evaluate(stay, [serve(Stuck()).url], episodes=1)
    assert {episode.spoiled for episode in evaluation.spoiled} == {"stale_sensor"}
    assert len(evaluation.episodes) == 1


def test_a_robot_that_stays_lost_is_said_once(serve, caplog):
    broken = Broken()
    with pytest.raises(RobotFaultError, match="no power"):
        evaluate(stay, [serve(broken).url], episodes=3, patience=0.5)
    assert len(broken.seeds) > 1
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "is out for now" in line]) == 1


def test_actions_by_chance_may_be_asked_for_by_name(serve):
    url = serve(Reach()).url
    named = evaluate("random", [url], episodes=3)
    made = evaluate(RandomPolicy(Reach.action_space), [url], episodes=3)
    assert named.mean_return == made.mean_return


def test_a_policys_own_error_ends_it(serve):
    def confused(observation):
        raise KeyError("what?")

    with pytest.raises(KeyError, match="what"):
        evaluate(confused, [serve(Reach()).url, serve(Reach()).url], episodes=30)


def test_an_action_that_the_robot_refuses_ends_it(serve):
    def wild(observation):
        return np.full(2, 50, np.float32)

    with pytest.raises(ActionRefusedError):
        evaluate(wild, [serve(Reach()).url], episodes=3)


def test_the_policy_is_never_asked_by_two_threads_at_once(serve):
    busy, intruded = threading.Lock(), threading.Event()

    def jealous(observation):
        if not busy.acquire(blocking=False):
            intruded.set()
            return straight_to_the_goal(observation)
        intruded.wait(0.002)  # so long another one may intrude
        busy.release()
        return straight_to_the_goal(observation)

    urls = [serve(Reach()).url for _ in range(3)]
    assert len(evaluate(jealous, urls, episodes=6).episodes) == 6
    assert not intruded.is_set()


def test_a_robot_that_says_nothing_of_success_has_no_success_rate(serve):
    evaluation = evaluate(stay, [serve(Silent()).url], episodes=3)
    assert (evaluation.success_rate, evaluation.interval) == (None, None)
    assert evaluation.mean_return < 0


def test_robots_of_two_kinds_are_refused(serve):
    class Other(Reach):
        def proprio_configs(self):
            return super().proprio_configs()[:2]

        def outcome(self, observation):
            return None

    with pytest.raises(ConfigurationError, match="has not the same spaces, streams and mode as"):
        evaluate(stay, [serve(Reach()).url, serve(Other()).url])


def test_a_robot_that_is_known_may_be_away_at_the_beginning(serve):
    away, here = serve(Reach()), serve(Reach()).url
    spec = look_at([away.url, here])
    away.stop()
    evaluation = evaluate(straight_to_the_goal, [away.url, here], episodes=8, seed=3, spec=spec)
    assert seeds_of(evaluation) == list(range(3, 11))
    assert len(evaluation.of_robot(here).episodes) == 8
    with pytest.raises(TransportError):
        evaluate(stay, [away.url], episodes=1, spec=spec, patience=0.3)


def test_a_robot_that_is_not_there_at_the_beginning_is_an_error(serve):
    with pytest.raises(TransportError, match="nothing listens"):
        evaluate(stay, [serve(Reach()).url, "ws://127.0.0.1:9"])


def test_a_policy_says_which_streams_it_wants(serve):
    class Two:
        streams = ("goal_difference",)

        def __call__(self, observation):
            assert list(observation) == ["goal_difference"]
            return straight_to_the_goal(observation)

    assert evaluate(Two(), [serve(Reach()).url], episodes=3).success_rate == 1.0


def test_an_episode_that_would_never_end_is_cut(serve):
    class Endless(Reach):
        max_episode_steps = None

    evaluation = evaluate(stay, [serve(Endless()).url], episodes=2)
    assert (evaluation.mean_length, evaluation.end_reasons) == (1000.0, {"time_limit": 2})


@pytest.mark.parametrize("episodes", [2.5, [1, 2], object()])
def test_what_is_no_list_of_episodes_is_refused(episodes):
    with pytest.raises(ConfigurationError, match="episodes is a number, or EpisodeKeys"):
        evaluate(lambda observation: 0, ["ws://127.0.0.1:1"], episodes=episodes)
