"""Moments: the time in a long video that a sentence is about."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ....core.backbones.load import announced, save_fine_tuned
from ....core.contracts.adapter import Adapter
from ....core.contracts.backbone import Backbone
from ....core.contracts.options import option, settle
from ....core.contracts.recipe import Recipe
from ....core.contracts.task import Axes, Contest, FitResult, Use
from ....core.data.unlabelled import images_of, readable
from ....core.errors import DataError
from ....core.features.store import FeatureStore
from ....core.registry import catalogue, load_adapter
from ....core.registry.catalogue import find
from ....core.runs.evaluations import in_the_fit, kept_digests, make_folder
from ....core.runs.folder import RUNS, Run, now, versions
from ....core.runs.run_sections import write_report
from ....core.runtime.distributed import is_main
from ....core.runtime.files import kept_checkpoints
from ....core.runtime.progress import Reporter
from ....core.tasks.classification.stored_run import recipe_again
from ....core.tasks.methods import adapter_of, backbone_of, check_named, encoding_batch_size, place_of_data
from ....core.tasks.retrieval.fitting import ZERO_SHOT, RetrievalData, train_on_pairs
from ....core.tasks.retrieval.scoring import digests_of_images
from ....core.tasks.retrieval.task import SEEDS, Retrieval, RetrievalContest
from ....core.training.checkpoints import newest_step
from ....core.training.log import FILE, keep_logs, read_log
from ....core.training.objective import parse_losses
from ..long_videos import whole_video
from ..moments.predictions import PredictedMoments, found_table, sentences_of
from ..moments.reading import Query, read_moments
from ..moments.report import examples, moments_report, moments_table, moments_verdict
from ..moments.scoring import DECIDING, MomentScores, evaluate_moments, flat_scores, search_videos
from ..moments.windows import Windows, lengths_of

LENGTHS = (4.0, 8.0, 16.0, 32.0, 64.0)
"""Seconds of windows where no moment trains."""
TOP = 5
NOTHING = "nothing"
"""In the file of weights of a run that trained none."""


@dataclass(frozen=True, kw_only=True)
class MomentOptions:
    """Options of moments."""

    windows: tuple[float, ...] = option((), "lengths of windows in seconds; none: by the moments that train", above=0)
    stride: float = option(0.25, "from one window to the next, as a share of its length", above=0, high=1)
    contrast: float = option(1.0, "what the frames around a window count against it", low=0, high=10)
    nms: float = option(0.5, "IoU with a better window above which a window is left out", low=0, high=1)

    def __post_init__(self):
        settle(self, "task 'moments'")


class Moments(Retrieval):
    """Windows of several lengths over the frames of a video are ranked for each sentence about it.

    Frames are encoded once, at `--fps` per second, and stored. `zero-shot` compares them as they are; a method that
    learns from pairs trains the towers on the moments that train, each as a clip with its sentence, as retrieval does.
    """

    takes: ClassVar = Retrieval.takes - {"generic", "redact"}
    options: ClassVar = MomentOptions
    needs_domain: ClassVar = True
    deciding: ClassVar = DECIDING
    at_prediction: ClassVar = frozenset({"classes", "workers", "batch_size", "top"})
    row_files: ClassVar = (".csv", ".jsonl")
    unused: ClassVar = {
        **Retrieval.unused,
        "shots": "counts images per class; moments trains on all training sentences, omit it",
        "generic": "moments does not ask what the towers forgot; omit it",
        "redact": "the report shows frames and names of videos; omit it",
        **dict.fromkeys(("classes", "novel", "templates", "descriptions"), "moments has no classes; omit it"),
    }

    def filled(self, recipe: Recipe) -> Recipe:
        """Nothing is trained where nobody says otherwise."""
        adapter = {**recipe.adapter, "name": recipe.adapter_name or ZERO_SHOT}
        return super().filled(recipe.with_(adapter=adapter))

    def read(self, recipe: Recipe) -> RetrievalData:
        """The sentences that a recipe names; errors as of `read_moments`."""
        return read_moments(recipe, self.domain, whole=recipe.adapter_name == ZERO_SHOT)

    def fit(self, recipe: Recipe, reporter: Reporter) -> FitResult | None:
        started = time.monotonic()
        check_named(recipe, [recipe.adapter_name])
        if recipe.adapter_name != ZERO_SHOT:
            adapter_of(recipe)  # what is wrong with its options is found out before videos are read
        data = self.read(recipe)
        backbone, windows = backbone_of(recipe, self.domain), _windows(recipe, data)
        announced(backbone, reporter.info)
        with kept_checkpoints(
            Path(recipe.out or RUNS), _key(recipe, data), recipe.resume, reporter, newest_step
        ) as folder:
            trains = recipe.adapter_name != ZERO_SHOT
            before = self._scored(backbone, data, "test", recipe, windows, reporter) if trains else None
            adapter, report, towers = train_on_pairs(recipe, data, backbone, recipe.seed, reporter, folder)
            after = self._scored(towers, data, "test", recipe, windows, reporter, trained=trains)
            if not is_main():
                return None
            metrics = flat_scores(before, after)
            info = self._info(recipe, data, backbone, adapter, windows, metrics, after, time.monotonic() - started)
            info |= {"fit": report.to_dict()}
            return self._written_run(recipe, data, (adapter, report, towers), after, metrics, info, folder)

    def evaluate(self, use: Use, reporter: Reporter) -> dict[str, Any]:
        """A run's towers and its backbone, on a split of its own videos or on others."""
        recipe = recipe_again(use)
        whole = bool(use.data) or recipe.adapter_name == ZERO_SHOT
        data, backbone = read_moments(recipe, self.domain, whole=whole), backbone_of(recipe, self.domain)
        windows, towers = _windows_of(use.run), _towers_of(use.run, backbone)
        trained = towers is not backbone
        before = self._scored(backbone, data, use.split, recipe, windows, reporter) if trained else None
        after = self._scored(towers, data, use.split, recipe, windows, reporter, trained=trained)
        skipped = list(dict.fromkeys(map(tuple, [*data.skipped, *after.skipped])))
        result = {
            "run": str(use.run.path),
            "data": data.name,
            "split": use.split,
            **in_the_fit(use.run.info, lambda: digests_of_images(data.part(use.split))),
            **flat_scores(before, after),
            "skipped": [list(pair) for pair in skipped],
        }
        if use.out is not None and is_main():
            make_folder(Path(use.out))
            facts = {**use.run.info["data"], "name": data.name, "licence": data.licence, "splits": {}}
            info = {**use.run.info, "created": now(), "data": facts, "notes": list(data.notes)}
            info["skipped"] = result["skipped"]
            shown = [] if use.redact else examples(after, data.pairs.data.load)
            write_report(Path(use.out), moments_report(use.run.path, info, result, shown=shown))
        return result

    def predict(self, use: Use, reporter: Reporter) -> PredictedMoments:
        """The times of sentences in new videos: each sentence in each video."""
        sentences = sentences_of(use)
        recipe = recipe_again(use)
        data = readable(images_of(self.domain, use.images, recipe.reading))
        videos = [whole_video(item) for item in data.items]
        backbone = backbone_of(recipe, self.domain)
        towers = _towers_of(use.run, backbone)
        queries = [Query(place, text, (), video.id) for place, video in enumerate(videos) for text in sentences]
        found, skipped = search_videos(
            towers,
            data,
            videos,
            queries,
            self.domain.transforms(towers, False, self.name),
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
            raise DataError(f"no readable video among what was given; {unread[0][0]}: {unread[0][1]}")
        return PredictedMoments([(videos[each.query.video].id, each) for each in found], unread)

    def entries(self, recipe: Recipe, axes: Axes) -> list[dict[str, Any]]:
        """Every method at every seed; zero-shot comes first."""
        seeds = axes.seeds or ((recipe.seed,) if recipe.gave("seed") else SEEDS)
        return [{"adapter": name, "shots": None, "seed": seed} for name in _names(axes) for seed in seeds]

    def contest(self, recipe: Recipe, axes: Axes, reporter: Reporter) -> Contest:
        names = _names(axes)
        check_named(recipe, names)
        data = read_moments(recipe, self.domain, whole=names == [ZERO_SHOT])
        return MomentsContest(self, recipe, data, backbone_of(recipe, self.domain))

    def table(self, metrics: Mapping[str, Any]):
        return moments_table(metrics)

    def verdict(self, metrics: Mapping[str, Any]) -> str:
        return moments_verdict(metrics)

    def predictions_table(self, rows: Sequence[Mapping[str, Any]]):
        return found_table(rows)

    def write_rows(self, predicted: PredictedMoments, path: Path) -> None:
        predicted.write(path)

    def _scored(
        self,
        backbone: Backbone,
        data: RetrievalData,
        split: str,
        recipe: Recipe,
        windows: Windows,
        reporter: Reporter | None = None,
        trained: bool = False,
    ) -> MomentScores:
        return evaluate_moments(
            backbone,
            data.pairs.data,
            data.part(split).items,
            data.transform(backbone, False),
            _fps(self.domain, recipe),
            windows,
            store=FeatureStore(keep=not trained),
            reporter=reporter,
            batch_size=encoding_batch_size(recipe),
            workers=recipe.workers,
            amp=recipe.amp,
        )

    def _info(self, recipe, data, backbone, adapter, windows, metrics, after, seconds) -> dict[str, Any]:
        parts = {split: len(data.pairs.split(split)) for split in ("train", "val", "test")}
        facts = {name: getattr(backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
        options = {} if adapter is None else adapter.options
        return {
            "created": now(),
            "domain": recipe.domain,
            "task": self.name,
            "adapter": recipe.adapter_name,
            "adapter_options": options,
            "backbone": facts,
            "data": {
                "name": data.name,
                "path": place_of_data(recipe),
                "kind": "captions",
                "licence": data.licence,
                "images": len(data.pairs),
                "splits": parts,
            },
            "class_names": [],
            "losses": parse_losses((options.get("loss") or "clip").split(",")) if options else {},
            "settings": options,
            "windows": {**asdict(windows), "fps": _fps(self.domain, recipe)},
            "seed": recipe.seed,
            "verdict": moments_verdict(metrics),
            "notes": list(data.notes),
            "skipped": [list(pair) for pair in dict.fromkeys(map(tuple, [*data.skipped, *after.skipped]))],
            "digests": kept_digests({name: data.pairs.split(name) for name in ("train", "val")}, digests_of_images),
            "seconds": round(seconds, 3),
            "versions": versions(),
            "recipe": recipe.with_(data={**recipe.data, **data.reading}).to_dict(),
        }

    def _written_run(self, recipe, data, fitted, after, metrics, info, folder: Path) -> FitResult:
        adapter, report, towers = fitted
        info["notes"] += [note[0].upper() + note[1:] for note in report.notes if note]
        with Run.create(recipe.out, recipe.domain, recipe.adapter_name) as run:
            model = _save(adapter, towers, run)
            run.write(info, metrics)
            run.log("\n".join([*info["notes"], info["verdict"], f"adapted: {metrics['adapted']}"]))
            keep_logs(folder, run.path)
            shown = (metrics, report.history, read_log(run.path / FILE), examples(after, data.pairs.data.load))
            write_report(run.path, moments_report(run.path, {**info, "model": str(model)}, *shown))
        facts = {key: info[key] for key in ("domain", "task", "adapter", "seed", "seconds")}
        summary = {"run": str(run.path), **facts, "backbone": info["backbone"]["spec"], **metrics}
        skipped = [tuple(pair) for pair in info["skipped"]]
        return FitResult(run.path, adapter, report, metrics, summary, info["notes"], skipped)


class MomentsContest(RetrievalContest):
    """Trainings on the same sentences."""

    def __init__(self, task: Moments, recipe: Recipe, pairs: RetrievalData, backbone: Backbone):
        super().__init__(recipe, pairs, backbone)
        self.task, self.windows = task, _windows(recipe, pairs)

    def score(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Metrics of one training; `shots` is the number of sentences that train."""
        recipe, trains = self.recipe.with_adapter(entry["adapter"]), entry["adapter"] != ZERO_SHOT
        self.task.check(recipe)
        started = time.perf_counter()
        _, _, towers = train_on_pairs(recipe, self.pairs, self.backbone, entry["seed"], Reporter(quiet=True), None)
        seconds = round(time.perf_counter() - started, 3)
        scores = self.task._scored(towers, self.pairs, "test", recipe, self.windows, trained=trains)
        shots = len(self.pairs.pairs.split("train"))
        return {"shots": shots, "accuracy": None, **scores.metrics(), "seconds": seconds}


def _names(axes: Axes) -> list[str]:
    """Zero-shot, and the methods that are given."""
    names = list(dict.fromkeys([ZERO_SHOT, *(axes.adapters or ())]))
    for name in names:
        find(name, catalogue.adapters(), "adapter")
    return names


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
        raise DataError(f"{run.path / 'run.json'}: damaged, it does not say the windows; fit again") from error


def _fps(domain: Any, recipe: Recipe) -> float:
    return float(domain.reading_of(recipe.reading).fps)


def _save(adapter: Adapter | None, towers: Backbone, run: Run) -> Path | str:
    """The adapter and the towers as a backbone; of zero-shot a file that says so."""
    if adapter is None:
        save_file({NOTHING: torch.zeros(1)}, run.adapter_path, metadata={"adapter": ZERO_SHOT})
        return ""
    adapter.save(run.adapter_path)
    return save_fine_tuned(towers, run.path)


def _towers_of(run: Run, backbone: Backbone) -> Backbone:
    """The backbone as the run trained it.

    Raises:
        DataError: the weights of the run are damaged.
    """
    if run.info["adapter"] == ZERO_SHOT:
        _check_untrained(run.adapter_path)
        return backbone
    return load_adapter(run.adapter_path, backbone).adapted(backbone)


def _check_untrained(path: Path) -> None:
    """Raise the DataError of a file that is not what a run without a training keeps."""
    try:
        whole = load_file(path).keys() == {NOTHING}
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        raise DataError(f"{path}: damaged, or of another run; copy the run again")


def _key(recipe: Recipe, data: RetrievalData) -> str:
    """16 hex digits that say what is trained on what."""
    stated = {k: v for k, v in recipe.to_dict().items() if k not in ("resume", "out", "workers", "given")}
    items = data.pairs.items
    parts = [sorted(map(str, stated.items())), len(items), items[0].id, items[-1].id]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
