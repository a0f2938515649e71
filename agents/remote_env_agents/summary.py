"""An evaluation in figures, as summary.json has them: names, SI units, null for what is unknown."""

from __future__ import annotations

import math
from typing import Any

from remote_env_agents.evaluation import Evaluation
from remote_env_agents.step_times import StepTimes

__all__ = ["summarise"]


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Return all figures of an evaluation; JSON can hold them."""
    differences = evaluation.differences()
    options = {episode.key.text_of_options for episode in evaluation.episodes}
    said = {
        "about": evaluation.about.to_json(),
        "is_complete": not evaluation.missing,
        **_figures(evaluation),
        "wall_seconds": evaluation.seconds,
        "steps_per_second": evaluation.steps_per_second,
        "sessions": evaluation.sessions,
        "robots": {url: _figures(evaluation.of_robot(url)) for url in evaluation.robots},
        "options": {
            text: _figures(evaluation.with_options(text))
            for text in sorted(options if len(options) > 1 else ())
        },
        "differences": [
            {
                "robot": each.robot,
                "what": each.what,
                "own": each.own,
                "rest": each.rest,
                "p": each.p,
                "p_corrected": each.adjusted,
                "is_flagged": each.is_flagged,
            }
            for each in differences
        ],
        "seeds_are_applied": all(episode.seed_applied for episode in evaluation.episodes),
        "missing": [key.name for key in evaluation.missing],
        "spoiled": [
            {"episode": each.key.name, "robot": each.robot, "why": each.spoiled}
            for each in evaluation.spoiled
        ],
        "events": [
            {"robot": each.robot, "what": each.what, "why": each.why} for each in evaluation.events
        ],
    }
    cleaned: dict[str, Any] = _without_nan(said)
    return cleaned


def _figures(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "episodes": len(evaluation.episodes),
        "successes": evaluation.successes,
        "success_rate": evaluation.success_rate,
        "success_interval": evaluation.interval,
        "return_mean": evaluation.mean_return,
        "return_interval": evaluation.return_interval,
        "return_std": evaluation.std_return,
        "return_median": evaluation.median_return,
        "length_mean": evaluation.mean_length,
        "steps": evaluation.steps,
        "end_reasons": evaluation.end_reasons,
        "spoiled_episodes": len(evaluation.spoiled),
        "deaths": evaluation.deaths,
        "step_seconds": _times(evaluation.step_times),
        "period_error_seconds": _times(evaluation.period_errors),
        "overruns": evaluation.overruns,
    }


def _times(times: StepTimes) -> dict[str, float] | None:
    if not times.counts:
        return None
    return {"p50": times.percentile(50), "p99": times.percentile(99), "max": times.longest}


def _without_nan(value: Any) -> Any:
    """Return the same with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
