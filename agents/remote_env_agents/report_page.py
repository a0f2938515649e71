"""The report of an evaluation as one page of HTML: no scripts, and nothing from elsewhere.

What comes from robots and from files is escaped; see ``markup.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from remote_env_agents.charts import (
    RateRow,
    ReturnRow,
    histogram_of_returns,
    rates_chart,
    returns_chart,
)
from remote_env_agents.comparing import Difference
from remote_env_agents.display import duration, percent
from remote_env_agents.evaluation import Evaluation
from remote_env_agents.markup import Markup, details, section, table
from remote_env_agents.report_style import STYLE
from remote_env_agents.step_times import StepTimes

if TYPE_CHECKING:
    from remote_env_agents.video import Film

__all__ = ["page_of"]

_LISTED: Final = 200  # rows of a table of episodes; all are in episodes.jsonl


def page_of(evaluation: Evaluation, *, films: Sequence[Film], folder: Path) -> str:
    """Return the page.

    Args:
        evaluation: Finished or not.
        films: Of episodes.
        folder: Where the page will lie: films are linked from there.
    """
    about = evaluation.about
    title = f"{about.policy.name} on {about.robot}"
    differences = evaluation.differences()
    body = [
        f"<header><h1>{escape(title)}</h1><p>{_subtitle(evaluation)}</p></header>",
        _warnings(evaluation, differences),
        _tiles(evaluation),
        section("Success", _success(evaluation, differences)),
        section("Return", _returns(evaluation, differences)),
        section("Robots", _robots(evaluation, differences)),
        section("Options", _options(evaluation)),
        section("How episodes ended", _ends(evaluation)),
        section("Time of a step", _latency(evaluation)),
        section("Videos", _videos(evaluation, films, folder)),
        section("What did not count", _faults(evaluation)),
        section("What was run", _run(evaluation)),
        section("Episodes", _episodes(evaluation)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _subtitle(evaluation: Evaluation) -> str:
    robots = len(evaluation.robots)
    count = len(evaluation.episodes)
    return escape(
        f"{count} of {evaluation.about.episodes} episodes on "
        f"{robots} robot{'s' if robots != 1 else ''}, {evaluation.about.mode}, "
        f"{evaluation.about.began.replace('T', ' ').replace('+00:00', ' UTC')}"
    )


def _warnings(evaluation: Evaluation, differences: Sequence[Difference]) -> str:
    said = []
    if evaluation.missing:
        said.append(
            f"{len(evaluation.missing)} of {evaluation.about.episodes} episodes are missing: this "
            "is no complete evaluation."
        )
    for each in differences:
        if each.is_flagged:
            said.append(f"{_text_of(each)}.")
    if evaluation.episodes and not all(one.seed_applied for one in evaluation.episodes):
        said.append("The robots use no seeds: another evaluation has other episodes.")
    return "".join(f'<p class="warning">{escape(text)}</p>' for text in said)


def _text_of(difference: Difference) -> str:
    own, rest = difference.own, difference.rest
    if difference.what == "success":
        figures = f"{percent(own)} against {percent(rest)}"
    else:
        figures = f"median {own:.4g} against {rest:.4g}"
    return (
        f"{_host(difference.robot)} differs from the rest in {difference.what}: {figures} "
        f"(corrected p\u00a0{_probability(difference.adjusted)})"
    )


def _probability(p: float) -> str:
    return "<\u00a00.0001" if p < 0.0001 else f"=\u00a0{p:.2g}"


def _host(url: str) -> str:
    return url.removeprefix("ws://")


def _tiles(evaluation: Evaluation) -> str:
    tiles = []
    if evaluation.interval is not None:
        low, high = evaluation.interval
        rate = percent(evaluation.success_rate or 0.0)
        between = f"{100 * low:.1f} to {100 * high:.1f} %, 95 % (Wilson)"
        tiles.append(("success", rate, between))
    if evaluation.episodes:
        low, high = evaluation.return_interval
        tiles.append(
            (
                "return, mean",
                f"{evaluation.mean_return:.4g}",
                f"{low:.4g} to {high:.4g}, 95 % (bootstrap)"
                if math.isfinite(low)
                else "too few for an interval",
            )
        )
        tiles.append(
            (
                "return, median",
                f"{evaluation.median_return:.4g}",
                f"std {evaluation.std_return:.3g}",
            )
        )
        tiles.append(("length", f"{evaluation.mean_length:.1f}", "steps, mean"))
    tiles.append(
        (
            "speed",
            f"{evaluation.steps_per_second:,.0f}/s",
            f"{evaluation.steps:,} steps in {duration(evaluation.seconds)}",
        )
    )
    cells = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(more)}</small></div>"
        for name, value, more in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _flagged(differences: Sequence[Difference], what: str) -> set[str]:
    return {each.robot for each in differences if each.is_flagged and each.what == what}


def _success(evaluation: Evaluation, differences: Sequence[Difference]) -> str:
    if evaluation.interval is None:
        return "" if evaluation.episodes else "<p>No episode counts yet.</p>"
    flagged = _flagged(differences, "success")
    rows = [] if len(evaluation.robots) < 2 else [*evaluation.robots]
    parts = [(evaluation.of_robot(url), _host(url), url in flagged) for url in rows]
    drawn = [
        _rate_row(part, name, is_flagged=is_flagged)
        for part, name, is_flagged in parts
        if part.episodes
    ]
    everything = _rate_row(evaluation, "all", is_all=True)
    return f"<figure>{rates_chart([*drawn, everything])}</figure>"


def _rate_row(
    part: Evaluation, name: str, *, is_flagged: bool = False, is_all: bool = False
) -> RateRow:
    low, high = part.interval or (0.0, 1.0)
    text = (
        f"{name}: {part.successes} of {len(part.episodes)}, {100 * low:.1f} to {100 * high:.1f} %"
    )
    return RateRow(name, part.success_rate or 0.0, low, high, text, is_flagged, is_all)


def _returns(evaluation: Evaluation, differences: Sequence[Difference]) -> str:
    known = [one for one in evaluation.episodes if math.isfinite(one.episode_return)]
    if not known:
        return ""
    good = [one.episode_return for one in known if one.is_success is not False]
    bad = [one.episode_return for one in known if one.is_success is False]
    legend = ""
    if bad:
        legend = '<p class="legend"><i class="good"></i>success <i class="bad"></i>no success</p>'
    flagged = _flagged(differences, "return")
    rows = []
    for url in evaluation.robots:
        own = [one for one in known if one.robot == url]
        if own:
            returns = tuple(one.episode_return for one in own)
            is_good = tuple(one.is_success for one in own)
            rows.append(ReturnRow(_host(url), returns, is_good, url in flagged))
    return (
        f"{legend}<figure>{histogram_of_returns(good, bad)}</figure>"
        f"<figure>{returns_chart(rows)}<figcaption>A dot is an episode, the box holds the middle "
        "half, the line is the median.</figcaption></figure>"
    )


def _robots(evaluation: Evaluation, differences: Sequence[Difference]) -> str:
    flags = {
        url: Markup(
            "<br>".join(
                f'<b class="flagged">{each.what}</b>'
                for each in differences
                if each.robot == url and each.is_flagged
            )
        )
        for url in evaluation.robots
    }
    rows: list[Sequence[str]] = [
        [_host(url), *_row(evaluation.of_robot(url)), flags[url]] for url in evaluation.robots
    ]
    rows.append([Markup("<b>all</b>"), *_row(evaluation), ""])
    tests = (
        "<p>A robot is flagged if it differs from all others together: in success by Fisher's "
        "exact test (two-sided; Fisher 1934), in return by the rank test of Mann and Whitney "
        "(1947; normal approximation with corrections for ties and continuity). The one that "
        "differs most is taken out, and the others are compared anew. After Holm's correction "
        "(1979) in each round, and for both figures, robots that are all alike are flagged in "
        "5 % of reports at most."
        f"{'' if differences else ' Here there was nothing to compare.'}</p>"
    )
    heads = (
        "robot",
        "episodes",
        "success",
        "95 %",
        "return",
        "std",
        "length",
        "spoiled",
        "lost",
        "differs in",
    )
    if not differences:
        return table(heads, rows) + tests
    compared = table(
        ("robot", "compared in", "own", "rest", "p", "corrected p"),
        [
            (
                _host(each.robot),
                each.what if each.what == "success" else "return (median)",
                f"{each.own:.4g}",
                f"{each.rest:.4g}",
                f"{each.p:.3g}",
                f"{each.adjusted:.3g}",
            )
            for each in differences
        ],
    )
    return table(heads, rows) + tests + details("All comparisons", compared)


def _row(part: Evaluation) -> list[str]:
    success = between = ""
    if part.interval is not None:
        low, high = part.interval
        success = f"{part.successes} ({percent(part.success_rate or 0.0)})"
        between = f"{100 * low:.1f} to {100 * high:.1f}"
    has_any = bool(part.episodes)
    return [
        str(len(part.episodes)),
        success,
        between,
        f"{part.mean_return:.4g}" if has_any else "",
        f"{part.std_return:.3g}" if has_any else "",
        f"{part.mean_length:.1f}" if has_any else "",
        str(len(part.spoiled)),
        str(part.deaths),
    ]


def _options(evaluation: Evaluation) -> str:
    texts = sorted({one.key.text_of_options for one in evaluation.episodes})
    if len(texts) < 2:
        return ""
    rows = [(text, *_row(evaluation.with_options(text))[:6]) for text in texts]
    return table(("options", "episodes", "success", "95 %", "return", "std", "length"), rows)


def _ends(evaluation: Evaluation) -> str:
    most = max(evaluation.end_reasons.values(), default=0)
    rows = "".join(
        f'<div class="bar"><span>{escape(reason or "unknown")}</span>'
        f'<i style="width:{60 * count / most:.1f}%"></i><b>{count}</b></div>'
        for reason, count in evaluation.end_reasons.items()
    )
    return f'<div class="bars">{rows}</div>' if rows else ""


def _latency(evaluation: Evaluation) -> str:
    if not evaluation.step_times.counts:
        return ""
    parts = [(_host(url), evaluation.of_robot(url)) for url in evaluation.robots]
    parts.append(("all", evaluation))
    is_timed = bool(evaluation.period_errors.counts)
    rows = []
    for name, part in parts:
        cells = [name, str(part.step_times.count), *_milliseconds(part.step_times)]
        if is_timed:
            cells += [*_milliseconds(part.period_errors), str(part.overruns)]
        rows.append(cells)
    heads = ["robot", "steps", "p50 ms", "p99 ms", "max ms"]
    note = "From the call of a step to its answer, as the client saw it, within 2.2 %."
    if is_timed:
        heads += ["period off: p50 ms", "p99 ms", "max ms", "missed"]
        hz = evaluation.about.control_hz
        note += (
            f" By how much the time from one answered step to the next was off the control "
            f"period of {1000 / hz:.4g} ms, and how many periods the robot missed."
        )
    return table(heads, rows) + f"<p>{escape(note)}</p>"


def _milliseconds(times: StepTimes) -> list[str]:
    if not times.counts:
        return ["", "", ""]
    values = (times.percentile(50), times.percentile(99), times.longest)
    return [f"{1e3 * value:.3g}" for value in values]


def _videos(evaluation: Evaluation, films: Sequence[Film], folder: Path) -> str:
    counted = {one.key: one for one in evaluation.episodes}
    shown = []
    for film in films:
        link = quote(os.fsencode(os.path.relpath(film.path, folder).replace(os.sep, "/")))
        lines = []
        for filmed in film.episodes:
            text = f"seed {filmed.key.name}: return {filmed.episode_return:.4g}"
            text += {True: ", success", False: ", no success", None: ""}[filmed.is_success]
            first = counted.get(filmed.key)
            if first is None:
                text += "; not among the episodes that count"
            elif first.episode_return == filmed.episode_return:
                text += "; just as it was counted"
            else:
                text += f"; another course than what was counted ({first.episode_return:.4g})"
            lines.append(escape(text))
        shown.append(
            f'<figure class="film"><video controls preload="metadata" src="{link}"></video>'
            f"<figcaption>{'<br>'.join(lines)} "
            f'(<a href="{link}">{escape(film.path.name)}</a>)</figcaption></figure>'
        )
    if not shown:
        return ""
    return (
        f'<div class="films">{"".join(shown)}</div><p>Filmed afterwards, once more from the same '
        "seeds. In lockstep that is the same course; in real time it need not be.</p>"
    )


def _faults(evaluation: Evaluation) -> str:
    said = ""
    if evaluation.missing:
        names = ", ".join(key.name for key in evaluation.missing[:_LISTED])
        more = len(evaluation.missing) - _LISTED
        said += f"<p>Missing: {escape(names)}{f' and {more} more' if more > 0 else ''}.</p>"
    if evaluation.spoiled:
        rows = [
            (one.key.name, _host(one.robot), str(one.attempt), str(one.length), one.spoiled)
            for one in evaluation.spoiled[:_LISTED]
        ]
        heads = ("seed", "robot", "attempt", "steps", "spoiled by")
        said += f"<p>Spoiled by a fault, and run again:</p>{table(heads, rows, kind='faults')}"
    if evaluation.events:
        events = [(_host(one.robot), one.what, one.why) for one in evaluation.events[:_LISTED]]
        said += f"<p>Robots:</p>{table(('robot', '', 'why'), events, kind='faults')}"
    return said or "<p>Nothing: no episode was spoiled, no robot was lost.</p>"


def _run(evaluation: Evaluation) -> str:
    about = evaluation.about
    seeds = [one.seed for one in evaluation.episodes] + [key.seed for key in evaluation.missing]
    rows: list[tuple[str, str]] = [
        ("policy", about.policy.name),
        ("its sha256", about.policy.sha256 or "unknown: it was given as code"),
        ("robot", about.robot),
        ("urls", ", ".join(evaluation.robots)),
        ("spec hash", about.spec_hash),
        ("time", f"{about.mode}, {about.control_hz:g} Hz" if about.control_hz else about.mode),
        ("streams", "as the robot has them" if about.streams is None else ", ".join(about.streams)),
        ("episodes", f"{about.episodes}, seeds {min(seeds)} to {max(seeds)}"),
        ("hash of the list", about.keys_hash),
        ("sessions", f"{evaluation.sessions}, {duration(evaluation.seconds)} in all"),
        ("remote-robot-env", about.version),
        *sorted(about.versions.items()),
        ("began", about.began),
    ]
    return table(("", ""), rows, kind="facts")


def _episodes(evaluation: Evaluation) -> str:
    rows = [
        (
            one.key.name,
            _host(one.robot),
            {True: "yes", False: "no", None: ""}[one.is_success],
            f"{one.episode_return:.6g}",
            str(one.length),
            one.end_reason,
            f"{one.seconds:.2f}",
        )
        for one in evaluation.episodes[:_LISTED]
    ]
    if not rows:
        return ""
    heads = ("seed", "robot", "success", "return", "steps", "end", "seconds")
    more = len(evaluation.episodes) - len(rows)
    note = f"<p>And {more} more: all are in episodes.jsonl.</p>" if more else ""
    return details(f"{len(rows)} episodes", table(heads, rows) + note)
