"""Moments: the time in a long video that a sentence is about."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import Backbone, Recipe, RunInfo, Use, option, settle
from ....core.errors import DataError
from ....core.features import FeatureStore
from ....core.runs import Report, Run
from ....core.runtime import Reporter
from ....core.tasks import (
    FittedTowers,
    Retrieval,
    RetrievalData,
)
from ..long_videos import whole_video
from ..moments.predictions import PredictedMoments, found_table, sentences_of
from ..moments.reading import Query, divided_moments
from ..moments.report import MomentsComparison, examples, moments_report
from ..moments.scoring import DECIDING, MomentScores, evaluate_moments, flat_scores, search_videos
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


class Moments(Retrieval):
    """Windows of several lengths over the frames of a video are ranked for each sentence about it.

    Frames are encoded once, at `--fps` per second, and stored. `zero-shot` compares them as they are; a method that
    learns from pairs trains the towers on the moments that train, each as a clip with its sentence, as retrieval does.
    """

    takes: ClassVar = Retrieval.takes - {"generic", "redact"}
    comparison: ClassVar = MomentsComparison
    judgements: ClassVar = ()
    places: ClassVar = frozenset()
    options: ClassVar = MomentOptions
    needs_domain: ClassVar = True
    on_parts: ClassVar = False
    deciding: ClassVar = DECIDING
    at_prediction: ClassVar = frozenset({"classes", "workers", "batch_size", "top"})
    row_files: ClassVar = (".csv", ".jsonl")
    unused: ClassVar = {
        **Retrieval.unused,
        "shots": "counts images per class; moments trains on all training sentences; omit it",
        "generic": "moments does not measure what the towers forgot; omit it",
        "redact": "the report shows frames and names of videos; omit it",
        **dict.fromkeys(("classes", "novel", "templates", "descriptions"), "moments has no classes; omit it"),
    }

    default_adapter: ClassVar = "zero-shot"

    def prepared(self, recipe: Recipe) -> Recipe:
        self.training(recipe)  # what is wrong with its options is found out before videos are read
        return recipe

    def read(self, recipe: Recipe) -> MomentData:
        """The sentences that a recipe names, and windows as it says; errors as of `divided_moments`."""
        return self._read(recipe, whole=not self.trains(recipe))

    def read_again(self, recipe: Recipe, use: Use) -> MomentData:
        whole = bool(use.data) or not self.trains(recipe)
        return replace(self._read(recipe, whole), windows=_windows_of(use.run))

    def fitted(self, recipe: Recipe, data: MomentData, reporter: Reporter, folder: Path) -> FittedTowers:
        started, backbone = time.monotonic(), self.announced_backbone(recipe, reporter)
        trains = self.trains(recipe)
        before = self._scored(backbone, data, "test", recipe, reporter) if trains else None
        adapter, report, towers = self.train(recipe, data, backbone, reporter, folder)
        after = self._scored(towers, data, "test", recipe, reporter, trained=trains)
        scores, notes = (before, after, flat_scores(before, after)), [*data.notes, *report.notes]
        return FittedTowers(adapter, report, backbone, towers, *scores, notes, time.monotonic() - started)

    def compared(self, towers: Backbone, data: MomentData, recipe: Recipe) -> dict[str, Any]:
        return self._scored(towers, data, "test", recipe, trained=self.trains(recipe)).metrics()

    def scores(self, data: MomentData, split: str, recipe: Recipe, reporter: Reporter, *towers: Backbone) -> tuple:
        backbone, after = towers
        trained = after is not backbone
        before = self._scored(backbone, data, split, recipe, reporter) if trained else None
        return before, self._scored(after, data, split, recipe, reporter, trained=trained)

    def metrics(self, before: MomentScores | None, after: MomentScores, data: MomentData) -> dict[str, Any]:
        return flat_scores(before, after)

    def keyed(self, data: MomentData) -> Any:
        return data.pairs

    def facts(self, data: MomentData, done: FittedTowers) -> dict[str, Any]:
        windows = {**asdict(data.windows), "fps": data.fps}
        return {"data": {"kind": "captions", "images": len(data.pairs)}, "windows": windows}

    def report(self, folder: Path, info: RunInfo, shown: tuple, done, data, hidden: Any) -> Report:
        return moments_report(folder, info, *shown, examples(done.after, data.pairs.data.load))

    def report_again(self, folder: Path, info: RunInfo, result: MomentsComparison, after, data, hidden):
        info = info.with_(data={**info.data, "splits": {}}, notes=list(data.notes))
        shown = [] if hidden is not None else examples(after, data.pairs.data.load)
        return moments_report(folder, info, result, shown=shown)

    def predict(self, use: Use, reporter: Reporter) -> PredictedMoments:
        """The times of sentences in new videos: each sentence in each video."""
        sentences = sentences_of(use)
        recipe = self.used_again(use)
        data = self.images(use.images, recipe)
        videos = [whole_video(item) for item in data.items]
        backbone = self.backbone(recipe)
        towers = self.towers(use.run, backbone)
        queries = [Query(place, text, (), video.id) for place, video in enumerate(videos) for text in sentences]
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

    def read_compared(self, recipe: Recipe, names: Sequence[str]) -> MomentData:
        return self._read(recipe, whole=names == [self.default_adapter])

    def table(self, metrics: Mapping[str, Any]):
        return MomentsComparison.from_json(metrics).table()

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return found_table(rows)

    def write_rows(self, predicted: PredictedMoments, path: Path) -> None:
        predicted.write(path)

    def _read(self, recipe: Recipe, whole: bool) -> MomentData:
        data = divided_moments(self.domain_data(recipe), self.domain, recipe.split_seed, whole=whole)
        known = {each.name: getattr(data, each.name) for each in fields(data)}
        return MomentData(**known, windows=_windows(recipe, data), fps=_fps(self.domain, recipe))

    def _scored(
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
