"""`eval --fail-under accuracy=0.8,worst_group=0.6`: an evaluation that is to fail where a score may lie too low."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, UnknownNameError, VladaptError, did_you_mean, shortened

WORST_GROUP, CORRUPTED, POINT = "worst_group", "corruptions", ".point"
USAGE = "give NAME=SHARE, as in accuracy=0.8,worst_group=0.6; NAME.point=SHARE compares the score itself"


ASKED_FOR = ((WORST_GROUP, "by", "give --by COLUMN"), (CORRUPTED, "holistic", "give --holistic"))
"""Scores that an evaluation has where an option asks for them."""


class ScoreTooLow(VladaptError):
    """A limit of `--fail-under` is not reached."""


@dataclass(frozen=True)
class Limit:
    """What a score must reach.

    Args:
        name: of a metric, `WORST_GROUP` or `CORRUPTED`.
        least: it is compared with the lower limit of the 95 % interval,
        point: or with the score itself.
    """

    name: str
    least: float
    point: bool = False


def parse_limits(text: str) -> tuple[Limit, ...]:
    """ "accuracy=0.8,worst_group.point=0.6" -> the limits.

    Raises:
        ConfigError: it does not say such.
    """
    limits = []
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            least = float(value)
        except ValueError:
            least = math.nan
        if not name.removesuffix(POINT) or not math.isfinite(least):
            raise ConfigError(f"--fail-under {shortened(part.strip())}: is not usable; {USAGE}")
        limits.append(Limit(name.removesuffix(POINT), least, name.endswith(POINT)))
    return tuple(limits)


def check_asked(limits: Sequence[Limit], options: Mapping[str, Any]) -> None:
    """Raise the ConfigError of limits of what is made where it is asked for, and is not.

    Args:
        options: of the evaluation, by name.
    """
    for name, option, cure in ASKED_FOR:
        if not options.get(option) and any(limit.name == name for limit in limits):
            raise ConfigError(f"--fail-under {name}: {cure} too, or omit it")


def check_limits(metrics: Mapping[str, Any], limits: Sequence[Limit]) -> None:
    """Raise a ScoreTooLow that names the limits that an evaluation does not reach; otherwise as `unmet`."""
    if sentences := unmet(metrics, limits):
        raise ScoreTooLow(f"--fail-under: {'; '.join(sentences)}")


def unmet(metrics: Mapping[str, Any], limits: Sequence[Limit]) -> list[str]:
    """A sentence for each limit that an evaluation does not reach.

    Args:
        metrics: as of metrics.json.

    Raises:
        UnknownNameError: it has no such score. ConfigError: the score has no interval.
    """
    scores, sentences = _scores(metrics), []
    for limit in limits:
        if limit.name not in scores:
            reason = _lacking(limit.name, metrics) or did_you_mean(limit.name, [*scores, WORST_GROUP, CORRUPTED])
            raise UnknownNameError(f"--fail-under {shortened(limit.name)}: this evaluation has no such score; {reason}")
        value, low = scores[limit.name]
        compared = value if limit.point else low
        if compared is None:
            raise ConfigError(
                f"--fail-under {limit.name}: has no interval here; give {limit.name}{POINT}={limit.least:g}"
            )
        if not compared >= limit.least:  # one that is no number too
            begins = "the lowest of the 95% intervals" if limit.name == WORST_GROUP else "its 95% interval"
            what = f"is {value:.3f}" if limit.point else f"is {value:.3f}, and {begins} begins at {low:.3f}"
            sentences.append(f"{limit.name.replace('_', ' ')} {what}, below {limit.least:g}")
    return sentences


def _lacking(name: str, metrics: Mapping[str, Any]) -> str:
    """Why one of `ASKED_FOR` is not there; "" of another."""
    if name == WORST_GROUP and metrics.get("subgroups"):
        return "no value of --by has enough images"
    if name == CORRUPTED and metrics.get("corruptions"):
        return metrics["corruptions"]["lacking"]
    return next((cure for asked, _, cure in ASKED_FOR if asked == name), "")


def _scores(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Name -> the score and the lower limit of its interval."""
    intervals = (metrics.get("metric_intervals") or {}).get("adapted", {})
    scores = {
        name: (value, (intervals.get(name) or [None])[0])
        for name, value in (metrics.get("adapted") or {}).items()
        if isinstance(value, (int, float)) and not name.startswith("ece")
    }
    columns = (metrics.get("subgroups") or {}).get("columns", ())
    parts = [part for column in columns for of in column["shares"].values() for part in of["parts"]]
    if parts:
        scores[WORST_GROUP] = tuple(min(each) for each in zip(*((p["share"], p["interval"][0]) for p in parts)))
    corrupted = metrics.get("corruptions") or {}
    if corrupted.get("kinds"):
        scores[CORRUPTED] = 1 - corrupted["error"], 1 - corrupted["error_interval"][1]
    return scores
