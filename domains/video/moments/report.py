"""What a report and a terminal show of moments: recalls beside guessing, similarity over time, strips of frames."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ....core.contracts import Decoded, Item
from ....core.errors import DataError
from ....core.runs import (
    Cell,
    CurveGridSection,
    CurveSection,
    ExchangeVerdict,
    HeadlineSection,
    Measure,
    Number,
    PictureSection,
    Report,
    TableSection,
    Track,
    Verdict,
    VerdictSection,
    plural,
    strip,
)
from ....core.runs import run_sections as shared
from ....core.tasks import score_table, training_sections
from ..clips import INSTANTS
from ..long_videos import clock
from .scoring import DECIDING, FIRST, MEAN, OVERLAPS, Found, MomentScores, overlaps

TITLES = {
    "good": "Moments are found better, by more than chance",
    "open": "The change could be chance",
    "bad": "The training made it worse, by more than chance",
}
FRAMES = 6
"""Of a moment that are shown."""
MEASURES = {
    **{
        f"recall{first}_iou_{least:g}": Measure(
            f"R@{first}, IoU {least:g}",
            f"{'the first window overlaps' if first == 1 else f'one of the first {first} windows overlaps'} so much",
        )
        for first in FIRST
        for least in OVERLAPS
    },
    MEAN: Measure("mIoU", "mean overlap of the first window with the moment"),
}
SHOWN = 6
"""Sentences that are shown, half of them the surest mistakes."""


def moments_table(metrics: Mapping[str, Any]) -> Table:
    """Scores for a terminal, beside those of guessing.

    Args:
        metrics: of `flat_scores`.
    """
    caption = "guessing: the same windows in random order; in brackets 95 % intervals over videos"
    last = {f"recall1_iou_{OVERLAPS[-1]:g}"}
    return score_table(metrics, MEASURES, _columns(metrics), in_words(metrics), caption, last)


@dataclass(frozen=True)
class MomentsVerdict(Verdict):
    """Whether the change, or the difference to guessing, is more than chance.

    Args:
        metrics: of `flat_scores`.
    """

    metrics: Mapping[str, Any]

    @property
    def change(self) -> ExchangeVerdict:
        return ExchangeVerdict(self.metrics.get("exchange") or {}, MEASURES, "videos", DECIDING, TITLES)

    @property
    def sentence(self) -> str:
        return "\n".join(filter(None, (_against_guessing(self.metrics), self.change.sentence)))

    def section(self) -> VerdictSection:
        if self.change.tests:
            return replace(self.change.section(), text=self.sentence)
        bounds, guessed = _bounds(self.metrics, "adapted", DECIDING), self.metrics["guessing"][DECIDING]
        better = bounds is not None and bounds[0] > guessed
        title = "Better than guessing" if better else "Not shown to be better than guessing"
        return VerdictSection("good" if better else "open", title, self.sentence)


def in_words(metrics: Mapping[str, Any]) -> str:
    """ "120 sentences about 20 videos"."""
    return f"{plural(metrics['test_queries'], 'sentence')} about {plural(metrics['test_images'], 'video')}"


def moments_report(
    folder: str | Path,
    info: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, float]] = (),
    log: Sequence[Mapping[str, float]] = (),
    shown: Sequence[Any] = (),
) -> Report:
    """The report of a run, or of an evaluation of one.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        metrics: of `flat_scores`.
        history, log: of the training.
        shown: of `examples`.
    """
    spec, data = (info.get("backbone") or {}).get("spec") or "a backbone", info.get("data") or {}
    trained = metrics.get("zero_shot") is not None
    return Report(
        kind="Report on moments in long videos",
        title=f"{spec}, {'trained' if trained else 'as it is'} on {data.get('name')}",
        lead=lead(metrics),
        created=info.get("created"),
        sections=[
            _headline(metrics),
            MomentsVerdict(metrics).section(),
            shared.warnings(_warnings(metrics, info.get("notes") or ())),
            shared.notes(info),
            _scores(metrics),
            *shown,
            *(training_sections(log or history, dict(info.get("losses") or {}), None) if history else ()),
            _facts(info),
            shared.skipped(info.get("skipped") or (), "sentence"),
            shared.use(_steps(info, str(folder)), "videos"),
            shared.licences(info, unknown="not stated"),
        ],
        versions=info.get("versions") or {},
        place=f"Folder {folder}. Settings and seed are in its run.json.",
    )


def lead(metrics: Mapping[str, Any]) -> str:
    """What came out, in a sentence."""
    after, guessed = metrics["adapted"][DECIDING], metrics["guessing"][DECIDING]
    return (
        f"Of {in_words(metrics)}, {after:.1%} rank a window first that overlaps with their moment by half or more; "
        f"guessing does so for {guessed:.1%}."
    )


def examples(scores: MomentScores, load: Callable[[Item], Decoded]) -> list[Any]:
    """Similarity over time of some sentences, the surest mistakes first, and strips of what was found and meant.

    Args:
        load: decodes a stretch of a video.
    """
    wrong = [found for found in scores.found if _overlap(found) < OVERLAPS[0]]
    wrong = sorted(wrong, key=lambda found: -float(found.scores[0]))[: SHOWN // 2]
    others = [found for found in scores.found if not any(found is each for each in wrong)]
    others = others[:: max(1, len(others) // (SHOWN - len(wrong)))][: SHOWN - len(wrong)]
    plots = [_over_time(found, scores.videos[found.query.video]) for found in (*wrong, *others)]
    note = "Found: the first window. The moment: as in the data."
    sections: list[Any] = [CurveGridSection("Similarity of frames and sentence over time", plots)]
    for title, some in (("Its most confident mistakes", wrong), ("Some others", others)):
        strips = [strip for found in some for strip in _strips(found, scores.videos[found.query.video], load)]
        if strips:
            sections.append(PictureSection(title, strips, note, side=856, columns=1))
    return sections


def _overlap(found: Found) -> float:
    return float(overlaps(found.spans[:1], torch.tensor(found.query.spans)).max())


def _over_time(found: Found, video: Item) -> CurveSection:
    frames = found.similarity.tolist()
    step = found.seconds / len(frames)
    low, high = min(frames), max(frames)
    above = high + 0.12 * ((high - low) or 1.0)
    start, end = found.spans[0].tolist()
    curves = {"similarity": ([step * (n + 0.5) for n in range(len(frames))], frames)}
    curves["found"] = ([start, end], [above, above])
    for number, (begin, stop) in enumerate(found.query.spans, start=1):
        height = above + 0.1 * ((high - low) or 1.0)
        name = "the moment" if len(found.query.spans) == 1 else f"moment {number}"
        curves[name] = ([begin, stop], [height, height])
    name = f"{video.id}: IoU {_overlap(found):.2f}"
    return CurveSection(f"“{found.query.text}”", curves, "seconds", "similarity", name, unit=False)


def _strips(found: Found, video: Item, load: Callable[[Item], Decoded]) -> list[tuple[Decoded, str]]:
    """Frames of the window that was found and of the moment; none where they can no longer be read."""
    strips = []
    for what, (start, end) in (("found", found.spans[0].tolist()), ("moment", found.query.spans[0])):
        times = {"start": start, "fps": FRAMES / max(end - start, 1e-3), INSTANTS: FRAMES}
        try:
            picture = strip(load(video.with_(decode={**video.decode, **times})), FRAMES)
            strips.append((picture, f"{what}, {clock(start)} to {clock(end)}"))
        except DataError:
            return []
    (first, words), *rest = strips
    return [(first, f"“{found.query.text}” in {video.id}: {words}"), *rest]


def _columns(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Key of scores -> name of their column."""
    trained = metrics.get("zero_shot") is not None
    before = {"zero_shot": "before"} if trained else {}
    return {"guessing": "guessing", **before, "adapted": "after" if trained else "model"}


def _bounds(metrics: Mapping[str, Any], when: str, key: str) -> Sequence[float] | None:
    return ((metrics.get("intervals") or {}).get(when) or {}).get(key)


def _against_guessing(metrics: Mapping[str, Any]) -> str:
    bounds, guessed = _bounds(metrics, "adapted", DECIDING), metrics["guessing"][DECIDING]
    if bounds is None:
        return ""
    reached = f"{metrics['adapted'][DECIDING]:.1%} ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"
    judged = (
        "better than" if bounds[0] > guessed else "worse than" if bounds[1] < guessed else "not distinguishable from"
    )
    return f"{MEASURES[DECIDING].name} is {reached}: {judged} guessing, {guessed:.1%}."


def _headline(metrics: Mapping[str, Any]) -> HeadlineSection:
    numbers, tracks, before = [], {}, metrics.get("zero_shot")
    for key in (DECIDING, MEAN):
        measure = MEASURES[key]
        was = f"before {measure.text(before[key])}" if before else ""
        numbers.append(Number(measure.name, measure.text(metrics["adapted"][key]), was, main=key == DECIDING))
        roles = {"guessing": "floor", "adapted": "adapted"}
        tracks[measure.name] = [
            Track(name.capitalize(), metrics[when][key], _bounds(metrics, when, key), roles.get(when, ""))
            for when, name in _columns(metrics).items()
        ]
    how = "with 95% intervals (bootstrap over videos)"
    return HeadlineSection(numbers, tracks, MEASURES[DECIDING], how, in_words(metrics))


def _warnings(metrics: Mapping[str, Any], notes: Sequence[str]) -> list[str]:
    videos, queries = metrics["test_images"], metrics["test_queries"]
    sentences = []
    if queries < shared.SMALL_TEST_SET:
        sentences.append(f"The test has {plural(queries, 'sentence')}: read the intervals, not the single numbers.")
    if videos < shared.FEW_GROUPS:
        sentences.append(f"The sentences are about {plural(videos, 'video')} only: intervals over so few are rough.")
    return sentences


def _scores(metrics: Mapping[str, Any]) -> TableSection:
    names = _columns(metrics)
    rows = [
        [
            Cell(f"{measure.name} {measure.arrow}", measure.meaning),
            *(Cell(measure.text(metrics[when][key]), measure.between(_bounds(metrics, when, key))) for when in names),
        ]
        for key, measure in MEASURES.items()
    ]
    note = "Guessing takes the same windows in random order, with overlapping ones removed in the same way."
    return TableSection("Moments in numbers", ("Score", *(name.capitalize() for name in names.values())), rows, note)


def _facts(info: Mapping[str, Any]) -> TableSection | None:
    data, windows = info.get("data") or {}, info.get("windows") or {}
    splits = data.get("splits") or {}
    lengths = ", ".join(f"{length:g}" for length in windows.get("lengths") or ())
    of_task = {
        "Method": [info.get("adapter"), shared.options(info.get("settings"))],
        "Sentences": [" · ".join(f"{name} {splits[name]:,}" for name in shared.SPLITS if name in splits)],
        "Backbone": shared.backbone_lines(info.get("backbone")),
        "Frames": [f"{windows.get('fps'):g} per second" if windows.get("fps") else None],
        "Windows": [
            f"{lengths} seconds" if lengths else None,
            shared.options({key: windows[key] for key in ("stride", "contrast", "nms") if key in windows}),
        ],
    }
    return shared.facts("What was searched, and how", info, of_task)


def _steps(info: Mapping[str, Any], folder: str) -> list[tuple[str, str]]:
    place = shlex.quote(folder)
    backbone = f" --backbone {shlex.quote(str(info['model']))}" if info.get("model") else ""
    find = f'vladapt predict {place} long.mp4 --classes "what happens there" --out found.csv'
    index = f"vladapt index VIDEOS --domain video --out videos.index{backbone}"
    search = 'vladapt search videos.index "what happens"'
    return [
        ("Find the times of a sentence in a new video:", find),
        ("Search many hours of video, second by second:", f"{index}\n{search}"),
        ("Score it again, on its own test videos or on others (--data):", f"vladapt eval {place}"),
    ]
