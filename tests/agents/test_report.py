"""The report says what must be known, and is one file that asks nobody for anything."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from made_up_episodes import ROBOTS, about, episode

from remote_env_agents import Evaluation, Film, FilmedEpisode, PolicyIdentity, write_report
from remote_env_agents.dispatch import RobotEvent
from remote_env_agents.films import note_film, read_films
from remote_env_agents.keys import EpisodeKey, cross
from remote_env_agents.report import EvaluationFolder
from remote_env_agents.step_times import StepTimes

VOID = {"meta", "br"}
KEYS = cross(range(40))


class Page(HTMLParser):
    """A page: its sections with their texts, and everything that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.sections = [], [], [], {}
        self._section = "top"
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag == "section":
            self._section = given["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.sections[self._section] = f"{self.sections.get(self._section, '')} {text}"


def evaluation(**more):
    episodes = tuple(
        episode(
            seed,
            robot=ROBOTS[seed % 2],
            is_success=bool(seed % 2 or seed % 20 == 0),
            end_reason="task" if seed % 2 else "time_limit",
        )
        for seed in range(39)
    )
    said = {
        "episodes": episodes,
        "spoiled": (episode(3, spoiled="link_lost", robot=ROBOTS[1]),),
        "missing": (KEYS[39],),
        "robots": ROBOTS,
        "seconds": 12.0,
        "about": about(KEYS, versions={"numpy": "9.9.9"}),
        "events": (RobotEvent(ROBOTS[1], "lost", "the cable"), RobotEvent(ROBOTS[1], "returned")),
        "sessions": 2,
        **more,
    }
    return Evaluation(**said)


def film_in(folder, *filmed):
    path = folder.video("seed-2")
    path.parent.mkdir()
    path.touch()
    return Film(path, 25, filmed)


def page_of(folder, made, **more):
    return Page(write_report(folder, made, **more).read_text())


def test_every_section_has_its_figures(tmp_path):
    page = page_of(tmp_path, evaluation())
    said = page.sections
    assert "39 of 40 episodes on 2 robots" in said["top"]
    assert "1 of 40 episodes are missing" in said["top"]
    assert re.search(r"one:1 differs from the rest in success: 10 % against 100 %", said["top"])
    assert "53.8 %" in said["top"]
    assert "38.6 to 68.4 %, 95 % (Wilson)" in said["top"]
    assert "95 % (bootstrap)" in said["top"]
    assert "390 steps in 12.0 s" in said["top"]
    for robot in ("one:1", "two:2", "all"):
        assert robot in said["success"]
        assert robot in said["robots"]
        assert robot in said["time-of-a-step"]
    assert "2 (10 %)" in said["robots"]
    assert "Fisher's exact test" in said["robots"]
    assert re.search(r"one:1\s+20\s+2 \(10 %\).*?0\s+0\s+success", said["robots"])
    assert re.search(r"time_limit\s+20", said["how-episodes-ended"])
    assert re.search(r"390\s+0\.981\s+20\s+20", said["time-of-a-step"])
    assert "Missing: 39" in said["what-did-not-count"]
    assert "link_lost" in said["what-did-not-count"]
    assert "the cable" in said["what-did-not-count"]
    for fact in ("policy.zip", "5eed", "arm", "cafe", "seeds 0 to 39", "9.9.9", "2026-01-01"):
        assert fact in said["what-was-run"]
    assert said["episodes"].count("time_limit") == 20


def test_it_asks_nobody_for_anything(tmp_path):
    text = write_report(tmp_path, evaluation()).read_text()
    assert Page(text).links == []
    assert "//" not in text.replace("ws://", "")
    assert "<script" not in text
    assert '<meta name="viewport" content="width=device-width' in text
    assert "prefers-color-scheme:dark" in text


def test_its_plots_are_svg_with_a_mark_for_each_episode(tmp_path):
    text = write_report(tmp_path, evaluation()).read_text()
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]
    rates, histogram, returns = plots
    assert len([c for c in rates.iter("circle")]) == 3
    assert [c.get("class") for c in rates.iter("circle")].count("flag") == 1
    dots = [c.get("class") for c in returns.iter("circle")]
    assert (dots.count("dot good"), dots.count("dot bad")) == (21, 18)
    bars = [title.text for title in histogram.iter("title")]
    assert sum(int(text.split()[0]) for text in bars) == 39


def test_what_robots_and_files_are_called_is_text(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    key = EpisodeKey(1, {evil: evil})
    made = evaluation(
        about=about(KEYS, robot=evil, policy=PolicyIdentity(evil)),
        robots=(evil,),
        episodes=(replace(episode(1), key=key, robot=evil, end_reason=evil), episode(2)),
        spoiled=(episode(3, spoiled=evil, robot=evil),),
        events=(RobotEvent(evil, "lost", evil),),
        missing=(EpisodeKey(4, {"a": evil}),),
    )
    page = page_of(tmp_path, made)
    assert "img" not in page.tags
    assert page.sections["what-was-run"].count(evil) >= 2


def test_paths_that_are_no_utf_8_are_spelled_out(tmp_path):
    policy, name = os.fsdecode(b"policy-\xe9.zip"), os.fsdecode(b"film-\xe9.mp4")
    made = evaluation(about=about(KEYS, policy=PolicyIdentity(policy)))
    film = Film(tmp_path / name, 25, (FilmedEpisode(KEYS[2], -0.2, 10, True),))
    page = page_of(tmp_path, made, films=[film])
    assert r"policy-\udce9.zip on arm" in page.sections["top"]
    assert set(page.links) == {"film-%E9.mp4"}
    assert json.loads((tmp_path / "summary.json").read_text())["about"]["policy"]["name"] == policy


def test_films_lie_beside_it_and_say_whether_they_show_what_was_counted(tmp_path):
    made = evaluation()
    same = FilmedEpisode(KEYS[2], made.episodes[2].episode_return, 10, True)
    other = FilmedEpisode(KEYS[3], -9.0, 10, False)
    films = [
        Film(tmp_path / "videos" / name, 25, (filmed,))
        for name, filmed in (("a b.mp4", same), ("c.mp4", other))
    ]
    page = page_of(tmp_path, made, films=films)
    assert set(page.links) == {"videos/a%20b.mp4", "videos/c.mp4"}
    assert "just as it was counted" in page.sections["videos"]
    assert "another course than what was counted (-0.3)" in page.sections["videos"]


@pytest.mark.parametrize("returned", [float("nan"), float("-inf"), -0.1 - 0.2])
def test_a_film_is_noted_as_json_whatever_its_return(tmp_path, returned):
    folder = EvaluationFolder(tmp_path)
    film = film_in(folder, FilmedEpisode(KEYS[2], returned, 10, True))
    note_film(folder, film)
    assert not re.search("NaN|Infinity", folder.films.read_text())
    (found,) = read_films(folder)
    assert repr(found) == repr(film)  # a NaN equals none


def test_a_damaged_line_costs_one_film(tmp_path):
    folder = EvaluationFolder(tmp_path)
    film = film_in(folder, FilmedEpisode(EpisodeKey(2, {"a": "1\u20282"}), -0.2, 10, True))
    note_film(folder, film)
    good = folder.films.read_text().replace("\\u2028", "\u2028").encode()
    folder.films.write_bytes(b"\xff\n" + good)
    assert read_films(folder) == [film]


def test_realtime_says_how_far_periods_were_off(tmp_path):
    off = StepTimes.of([0.0001, 0.002])
    made = evaluation(episodes=(episode(1, period_errors=off, overruns=3),))
    said = page_of(tmp_path, made).sections["time-of-a-step"]
    assert "control period of 50 ms" in said
    assert re.search(r"0\.0987\s+1\.96\s+2\s+3", said)


def test_options_are_told_apart(tmp_path):
    episodes = tuple(episode(n, options={"side": "left" if n % 2 else "right"}) for n in range(6))
    said = page_of(tmp_path, evaluation(episodes=episodes)).sections["options"]
    assert re.search(r'\{"side":"left"\}\s+3\s+0 \(0 %\)', said)
    assert re.search(r'\{"side":"right"\}\s+3\s+3 \(100 %\)', said)


@pytest.mark.parametrize(
    "more",
    [
        {"episodes": ()},
        {"episodes": (episode(1),), "spoiled": (), "missing": (), "events": ()},
        {"episodes": (episode(1, is_success=None, episode_return=float("nan")),)},
        {"episodes": (episode(1, episode_return=2.0), episode(2, episode_return=2.0))},
    ],
)
def test_little_is_enough(tmp_path, more):
    page_of(tmp_path, evaluation(**more))
    assert json.loads((tmp_path / "summary.json").read_text())["about"]["robot"] == "arm"


def test_the_summary_has_the_same_figures(tmp_path):
    made = evaluation()
    write_report(tmp_path, made)
    said = json.loads((tmp_path / "summary.json").read_text())
    assert said["is_complete"] is False
    assert said["success_interval"] == pytest.approx(made.interval)
    assert said["return_interval"] == pytest.approx(made.return_interval)
    assert said["robots"][ROBOTS[0]]["successes"] == 2
    assert said["deaths"] == 1
    assert said["missing"] == ["39"]
    assert said["step_seconds"] == pytest.approx({"p50": 0.001, "p99": 0.02, "max": 0.02}, rel=0.03)
    assert said["period_error_seconds"] is None
    assert said["differences"][0]["is_flagged"] is True
