"""`eval --fail-under accuracy=0.8,worst_group=0.6`: an evaluation that is to fail where a score may lie too low."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..contracts.run_info import AxisScore
from ..errors import ConfigError, UnknownNameError, VladaptError, did_you_mean, shortened
from .sections import MEASURES

if TYPE_CHECKING:
    from ..contracts.judgement import Findings, Judgement

POINT = ".point"
USAGE = "give NAME=SHARE, as in accuracy=0.8,worst_group=0.6; NAME.point=SHARE compares the score itself"


class ScoreTooLow(VladaptError):
    """A limit of `--fail-under` is not reached."""


@dataclass(frozen=True)
class Limit:
    """What a score must reach.

    Args:
        name: of a metric, or of an axis of a judgement.
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


def check_asked(
    limits: Sequence[Limit],
    judgements: Sequence[Judgement],
    metrics: Mapping[str, Any] | None = None,
    falls: Callable[[str], bool] = lambda score: False,
) -> None:
    """Refuse what an evaluation cannot give, before anything is computed.

    Args:
        judgements: all of the evaluation, with what is asked of them.
        metrics: of the fit, which has the same scores; none are compared where it has none.
        falls: as `Task.falls`.

    Raises:
        ConfigError: a limit of what is made where it is asked for, and is not, or above 1 of a share.
            UnknownNameError: a name that neither the fit nor a judgement has.
    """
    scores, axes = _rising(metrics or {}, falls), {name for each in judgements for name in each.record.axes}
    for name in (limit.name for limit in limits if scores):
        if falls(name):
            raise ConfigError(f"--fail-under {name}: more of it is not better, so no least value says that it is good")
        if name not in scores and name not in axes:
            cure = did_you_mean(name, [*scores, *axes])
            raise UnknownNameError(f"--fail-under {shortened(name)}: this run has no such score; {cure}")
    for limit in limits:
        if limit.least > 1 and (limit.name in axes or limit.name.partition("/")[0] in MEASURES):
            raise ConfigError(
                f"--fail-under {limit.name}={limit.least:g}: no score is above 1; give a share, such as 0.8 for 80%"
            )
    named = {limit.name for limit in limits}
    for judgement in judgements:
        for name, cure in judgement.record.axes.items():
            if name in named and not judgement.asked:
                raise ConfigError(f"--fail-under {name}: {cure} too, or omit it")


def check_limits(
    metrics: Mapping[str, Any], limits: Sequence[Limit], findings: Findings, falls: Callable[[str], bool]
) -> None:
    """Raise a ScoreTooLow that names the limits that an evaluation does not reach; otherwise as `unmet`."""
    if sentences := unmet(metrics, limits, findings, falls):
        raise ScoreTooLow(f"--fail-under: {'; '.join(sentences)}")


def unmet(
    metrics: Mapping[str, Any],
    limits: Sequence[Limit],
    findings: Findings,
    falls: Callable[[str], bool] = lambda score: False,
) -> list[str]:
    """A sentence for each limit that an evaluation does not reach.

    Args:
        metrics: as of metrics.json.
        findings: of its judgements, with all classes that there may be.
        falls: as `Task.falls`.

    Raises:
        UnknownNameError: it has no such score. ConfigError: the score has no interval.
    """
    scores, sentences = {**_metrics(metrics, falls), **findings.axis_scores}, []
    cures = {name: cure for of in findings.classes.values() for name, cure in of.record.axes.items()}
    for limit in limits:
        score = scores.get(limit.name) or cures.get(limit.name) or did_you_mean(limit.name, [*scores, *cures])
        if isinstance(score, str):
            raise UnknownNameError(f"--fail-under {shortened(limit.name)}: this evaluation has no such score; {score}")
        compared = score.score if limit.point else None if score.interval is None else score.interval[0]
        if compared is None:
            raise ConfigError(
                f"--fail-under {limit.name}: has no interval here; give {limit.name}{POINT}={limit.least:g}"
            )
        if not compared >= limit.least:  # one that is no number too
            begins = "" if limit.point else f", and {score.begins} begins at {compared:.3f}"
            name = limit.name.replace("_", " ")
            sentences.append(f"{name} is {score.score:.3f}{begins}, below {limit.least:g}")
    return sentences


def _metrics(metrics: Mapping[str, Any], falls: Callable[[str], bool]) -> dict[str, AxisScore]:
    """Of the run, by name, but for those of which less is better."""
    intervals = (metrics.get("metric_intervals") or {}).get("adapted", {})
    return {
        name: AxisScore(name, value, intervals.get(name))
        for name, value in _rising(metrics, falls).items()
        if isinstance(value, (int, float))
    }


def _rising(metrics: Mapping[str, Any], falls: Callable[[str], bool]) -> dict[str, Any]:
    """Scores of which more is better, by name; None where the images gave none."""
    scores: Mapping[str, Any] = metrics.get("adapted") or {}
    return {name: value for name, value in scores.items() if not falls(name)}
