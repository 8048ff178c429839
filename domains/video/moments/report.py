"""What a report and a terminal show of moments: recalls beside guessing, similarity over time, strips of frames."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.table import Table

from ....core.contracts import Decoded, Item, RunInfo
from ....core.errors import DataError
from ....core.runs import CurveSection, Measure, PictureSection, Report, TableSection, plural
from ....core.runs import run_sections as shared
from ....core.tasks import GroundingComparison
from ..clips import INSTANTS
from ..long_videos import clock_time
from .scoring import DECIDING, FIRST, MEAN, OVERLAPS, Found, MomentScores, span_overlaps

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
RANDOM_ORDER = "Guessing takes the same windows in random order, with overlapping ones removed in the same way."
SHOWN = 6
"""Sentences that are shown, half of them the surest mistakes."""


@dataclass(frozen=True, eq=False)
class MomentsComparison(GroundingComparison):
    """What `flat_scores` gives.

    Attributes:
        test_queries: sentences; `test_images` are the videos.
    """

    measures: ClassVar = MEASURES
    unit: ClassVar = "videos"
    deciding: ClassVar = DECIDING
    reached: ClassVar = f"{MEASURES[DECIDING].name} is {{}}"
    titles: ClassVar = {
        "good": "Moments are found better, by more than chance",
        "open": "The change could be chance",
        "bad": "The training made it worse, by more than chance",
    }

    test_queries: int = 0

    @property
    def queries(self) -> str:
        """ "120 sentences about 20 videos"."""
        return f"{plural(self.test_queries, 'sentence')} about {plural(self.test_images, 'video')}"

    @property
    def lead(self) -> str:
        """What came out, in a sentence."""
        return (
            f"Of {self.queries}, {self.adapted[DECIDING]:.1%} rank a window first that overlaps with their moment by "
            f"half or more; guessing does so for {self.guessing[DECIDING]:.1%}."
        )

    def table(self) -> Table:
        """Scores for a terminal, beside those of guessing."""
        caption = "guessing: the same windows in random order; in brackets 95 % intervals over videos"
        last = {f"recall1_iou_{OVERLAPS[-1]:g}"}
        return self.score_table(self.columns, self.queries, caption, last)


def moments_report(
    folder: str | Path,
    info: RunInfo,
    metrics: MomentsComparison,
    history: Sequence[Mapping[str, float]] = (),
    log: Sequence[Mapping[str, float]] = (),
    shown: Sequence[Any] = (),
) -> Report:
    """The report of a run, or of an evaluation of one.

    Args:
        info: as in run.json, and `model`, the path of the weights.
        history, log: of the training.
        shown: of `moment_examples`.
    """
    return Report.of_run(
        info,
        kind="Report on moments in long videos",
        title=f"{info.backbone.spec}, {'trained' if metrics.zero_shot else 'as it is'}, on {info.data.name}",
        lead=metrics.lead,
        sections=[
            metrics.headline(
                {key: MEASURES[key] for key in (DECIDING, MEAN)}, metrics.columns, "videos", metrics.queries
            ),
            metrics.section(),
            shared.warnings(_warnings(metrics)),
            shared.notes(info),
            metrics.score_section("Moments in numbers", RANDOM_ORDER),
            *shown,
            *(shared.training_sections(log or history, info.losses, None) if history else ()),
            _facts(info),
            shared.skipped(info.skipped, "sentence"),
            shared.use(_steps(info, str(folder)), "videos"),
            shared.licences(info, unknown="not stated"),
        ],
        place=f"Folder {folder}. Settings and seed are in its run.json.",
    )


def moment_examples(scores: MomentScores, load: Callable[[Item], Decoded]) -> list[Any]:
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
    sections: list[Any] = [CurveSection.side_by_side("Similarity of frames and sentence over time", plots)]
    for title, some in (("Its most confident mistakes", wrong), ("Some others", others)):
        strips = [strip for found in some for strip in _strips(found, scores.videos[found.query.video], load)]
        if strips:
            sections.append(PictureSection(title, strips, note, side=856, columns=1))
    return sections


def _overlap(found: Found) -> float:
    return float(span_overlaps(found.spans[:1], torch.tensor(found.query.spans)).max())


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
            picture = PictureSection.strip(load(video.with_(decode={**video.decode, **times})), FRAMES)
            strips.append((picture, f"{what}, {clock_time(start)} to {clock_time(end)}"))
        except DataError:
            return []
    (first, words), *rest = strips
    return [(first, f"“{found.query.text}” in {video.id}: {words}"), *rest]


def _warnings(metrics: MomentsComparison) -> list[str]:
    videos, queries = metrics.test_images, metrics.test_queries
    sentences = []
    if queries < shared.SMALL_TEST_SET:
        sentences.append(f"The test has {plural(queries, 'sentence')}: read the intervals, not the single numbers.")
    if videos < shared.FEW_GROUPS:
        sentences.append(f"The sentences are about {plural(videos, 'video')} only: intervals over so few are rough.")
    return sentences


def _facts(info: RunInfo) -> TableSection | None:
    windows, splits = info.get("windows") or {}, info.data.splits
    lengths = ", ".join(f"{length:g}" for length in windows.get("lengths") or ())
    of_task = {
        "Method": [info.adapter, shared.options(info.settings)],
        "Sentences": [" · ".join(f"{name} {splits[name]:,}" for name in Item.SPLITS if name in splits)],
        "Backbone": shared.backbone_lines(info.backbone),
        "Frames": [f"{windows.get('fps'):g} per second" if windows.get("fps") else None],
        "Windows": [
            f"{lengths} seconds" if lengths else None,
            shared.options({key: windows[key] for key in ("stride", "contrast", "nms") if key in windows}),
        ],
    }
    return shared.facts("What was searched, and how", info, of_task)


def _steps(info: RunInfo, folder: str) -> list[tuple[str, str]]:
    place = shlex.quote(folder)
    backbone = f" --backbone {shlex.quote(info.model)}" if info.model else ""
    find = f'vladapt predict {place} long.mp4 --classes "what happens there" --out found.csv'
    index = f"vladapt index VIDEOS --domain video --out videos.index{backbone}"
    search = 'vladapt search videos.index "what happens"'
    return [
        ("Find the times of a sentence in a new video:", find),
        ("Search many hours of video, second by second:", f"{index}\n{search}"),
        ("Score it again, on its own test videos or on others (--data):", f"vladapt eval {place}"),
    ]
