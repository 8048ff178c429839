"""Moments: the time in a long video that a sentence is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import Backbone, Recipe, RunInfo, Use, option, settle
from ....core.errors import DataError
from ....core.features import FeatureStore
from ....core.runs import Report, Run
from ....core.runtime import Reporter
from ....core.tasks import FittedTowers, Grounding, RetrievalData
from ..long_videos import whole_video
from ..moments.predictions import PredictedMoments, asked_sentences, found_table
from ..moments.reading import MomentQuery, divided_moments
from ..moments.report import MomentsComparison, moment_examples, moments_report
from ..moments.scoring import DECIDING, MomentScores, evaluate_moments, flat_moment_scores, search_videos
from ..moments.windows import Windows, lengths_of

LENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0)
"""Seconds of windows where no moment trains."""
TOP = 5


@dataclass(frozen=True, kw_only=True)
class MomentOptions:
    """Options of moments."""

    windows: tuple[float, ...] = option((), "lengths of windows in seconds; none: set by the training moments", above=0)
    stride: float = option(0.25, "step from one window to the next, as a share of its length", above=0, high=1)
    contrast: float = option(1.0, "weight of the frames around a window, which count against it", low=0, high=10)
    nms: float = option(0.5, "IoU with a better window above which a window is dropped", low=0, high=1)

    def __post_init__(self):
        settle(self, "task 'moments'")


@dataclass(frozen=True)
class MomentData(RetrievalData):
    """Moments with their sentences, and the windows that are ranked.

    Args:
        fps: frames per second that are looked at.
    """

    windows: Windows = Windows(LENGTHS)
    fps: float = 1.0


class Moments(Grounding):
    """Windows of several lengths over the frames of a video are ranked for each sentence about it.

    Frames are encoded once, at `--fps` per second, and stored. `zero-shot` compares them as they are; a method that
    learns from pairs trains the towers on the moments that train, each as a clip with its sentence, as retrieval does.
    """

    takes: ClassVar = Grounding.takes - {"generic", "redact"}
    comparison: ClassVar = MomentsComparison
    options: ClassVar = MomentOptions
    deciding: ClassVar = DECIDING
    at_prediction: ClassVar = frozenset({"classes", "workers", "batch_size", "top"})
    unused: ClassVar = {
        **Grounding.unused,
        "shots": "counts images per class; moments trains on all training sentences; omit it",
        "generic": "moments does not measure what the towers forgot; omit it",
        "redact": "the report shows frames and names of videos; omit it",
        **dict.fromkeys(
            ("classes", "novel", "templates", "descriptions", "language"), "moments has no classes; omit it"
        ),
    }

    flat: ClassVar = staticmethod(flat_moment_scores)

    def divided(self, recipe: Recipe, whole: bool) -> MomentData:
        """The sentences that a recipe names, and windows as it says; errors as of `divided_moments`."""
        data = divided_moments(self.domain_data(recipe), self.domain, recipe.split_seed, whole=whole)
        known = {each.name: getattr(data, each.name) for each in fields(data)}
        return MomentData(**known, windows=_windows(recipe, data), fps=_fps(self.domain, recipe))

    def read_again(self, recipe: Recipe, use: Use) -> MomentData:
        whole = bool(use.data) or not self.trains(recipe)
        return replace(self.divided(recipe, whole), windows=_windows_of(use.run))

    def facts(self, data: MomentData, done: FittedTowers) -> dict[str, Any]:
        windows = {**asdict(data.windows), "fps": data.fps}
        return {"data": {"kind": "captions", "images": len(data.pairs)}, "windows": windows}

    def report(self, folder: Path, info: RunInfo, shown: tuple, done, data, hidden: Any) -> Report:
        return moments_report(folder, info, *shown, moment_examples(done.after, data.pairs.data.load))

    def report_again(self, folder: Path, info: RunInfo, result: MomentsComparison, after, data, hidden):
        info = info.with_(data={**info.data, "splits": {}}, notes=list(data.notes))
        shown = [] if hidden is not None else moment_examples(after, data.pairs.data.load)
        return moments_report(folder, info, result, shown=shown)

    def predict(self, use: Use, reporter: Reporter) -> PredictedMoments:
        """The times of sentences in new videos: each sentence in each video."""
        sentences = asked_sentences(use)
        recipe = self.used_again(use)
        data = self.images(use.images, recipe)
        videos = [whole_video(item) for item in data.items]
        backbone = self.backbone(recipe)
        towers = self.towers(use.run, backbone)
        queries = [MomentQuery(place, text, (), video.id) for place, video in enumerate(videos) for text in sentences]
        found, skipped = search_videos(
            towers,
            data,
            videos,
            queries,
            self.domain.of(data).transforms(towers, False, self.name),
            _fps(self.domain, recipe),
            _windows_of(use.run),
            store=FeatureStore(keep=towers is backbone),
            top=use.top or TOP,
            reporter=reporter,
            batch_size=use.batch_size,
            workers=use.workers,
            amp=recipe.amp,
        )
        unread = list(dict.fromkeys(map(tuple, [*data.skipped, *skipped])))
        if not found:
            raise DataError(f"none of the files given is a readable video; {unread[0][0]}: {unread[0][1]}")
        return PredictedMoments([(videos[each.query.video].id, each) for each in found], unread)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return found_table(rows)

    def scored(
        self,
        backbone: Backbone,
        data: MomentData,
        split: str,
        recipe: Recipe,
        reporter: Reporter | None = None,
        trained: bool = False,
    ) -> MomentScores:
        return evaluate_moments(
            backbone,
            data.pairs.data,
            data.part(split).items,
            data.transform(backbone, False),
            data.fps,
            data.windows,
            store=FeatureStore(keep=not trained),
            reporter=reporter,
            batch_size=self.encoding_batch(recipe),
            workers=recipe.workers,
            amp=recipe.amp,
        )


def _windows(recipe: Recipe, data: RetrievalData) -> Windows:
    """As the options say; lengths by the moments that train, where nobody names any."""
    given = recipe.task_options
    taught = [float(i.decode["end"]) - float(i.decode["start"]) for i in data.pairs.split("train").items]
    lengths = tuple(given["windows"]) or (lengths_of(taught) if taught else LENGTHS)
    return Windows(lengths, given["stride"], given["contrast"], given["nms"])


def _windows_of(run: Run) -> Windows:
    """Those of a run.

    Raises:
        DataError: run.json does not say them.
    """
    known = run.info.get("windows")
    try:
        numbers = {key: float(known[key]) for key in ("stride", "contrast", "nms")}
        return Windows(tuple(float(length) for length in known["lengths"]), **numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{run.path / 'run.json'}: damaged: the windows are missing; fit again") from error


def _fps(domain: Any, recipe: Recipe) -> float:
    return float(domain.reading_of(recipe.reading).fps)
