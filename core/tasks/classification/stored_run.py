"""What a run folder holds of a fit: what is written of it, and what is read again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ...contracts.adapter import Adapter, FitReport
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.features import FeatureSet
from ...contracts.items import Decoded, DomainData, Item, items_of
from ...contracts.judgement import JudgedClassifier, Scores
from ...contracts.prepared import PreparedData, Shots, on_adapted
from ...contracts.recipe import SAMPLE, Recipe
from ...contracts.run_info import FittedRun, RunInfo
from ...contracts.sources import sources_in
from ...contracts.use import Use
from ...data.file_hashes import FileHashes
from ...data.sampling import class_counts, short_classes
from ...data.tables import csv_text
from ...data.unlabelled import images_of
from ...data.verify import digests_of, image_digest
from ...errors import ConfigError, DataError, VladaptError
from ...explanation.evidence import Example, LabelledImages, kept_rows
from ...recipes.asked_for import data_facts
from ...registry import load_adapter
from ...runs.folder import Run, kept_digests, versions
from ...runs.redaction import LEFT_OUT, Redaction
from ...runs.sections import choice, in_words
from ...runtime.files import write_whole
from ...training.log import keep_logs
from .scoring import PROBE_FILE, Fitted

CLASS_FILES = (".txt", ".json")
PREDICTIONS = "predictions.csv"
"""Of a run whose test rows have no labels."""
MOST_NAMED = 8
"""Classes of few images that a note names."""


def recipe_again(use: Use) -> Recipe:
    """The run's own recipe, on the data, device and resources that are asked for.

    Raises:
        DataError: the run's own data is needed and not there any more, or its recipe is damaged.
    """
    recipe = _recipe_of(use.run)
    base = place_of_base(use.run.info, use.run.path)
    resources = {**recipe.resources, **({"base": base} if base else {}), **(use.resources or {})}
    resources = {name: value for name, value in resources.items() if value != LEFT_OUT}
    workers = recipe.workers if use.workers is None else use.workers
    data = {**recipe.data, **(use.reading or {})}
    recipe = recipe.with_(device=use.device, workers=workers, resources=resources, data=data)
    if use.run.info.backbone.of_tiles:
        recipe = recipe.with_(backbone=use.run.info.backbone.spec)
    if use.images:
        return recipe
    if recipe.sources and not (use.data or use.features):
        return recipe.with_(sources={**recipe.sources, "data": _located_sources(use.run, recipe.sources)})
    if use.data or use.features:
        return recipe.with_source(data=use.data or SAMPLE, features=use.features)
    place = use.run.info.data.path or recipe.data_path
    if place == LEFT_OUT:
        raise DataError(f"{use.run.shown}: redacted, so it does not say where its data is; give --data or --features")
    place = place if place == SAMPLE else _located(use.run, place)
    if place != SAMPLE and not Path(place).exists():
        origin = use.run.info.origin
        where = os.path.abspath(use.run.path / origin / place) if isinstance(origin, str) else place
        raise DataError(f"{where}: the run's own data is no longer there; give other data with --data or --features")
    return recipe.with_(features=place) if recipe.features else recipe.with_source(data=place)


def _located_sources(run: FittedRun, own: Mapping[str, Any]) -> list[str]:
    """The run's own data sets where they are found from here, with their weights."""
    sources, _ = sources_in(own)
    return [replace(source, path=_located(run, source.path)).text for source in sources]


def _recipe_of(run: FittedRun) -> Recipe:
    """The recipe of the fit, its files where they are found from here."""
    try:
        recipe = Recipe.of(run.info.recipe)
    except ConfigError as error:
        raise DataError(f"{run.path / 'run.json'}: its recipe is damaged ({error}); fit again") from error
    resources = {name: _located(run, value) for name, value in recipe.resources.items()}
    files = {key: _located(run, getattr(recipe, key)) for key in ("descriptions", "generic")}
    if str(recipe.classes).endswith(CLASS_FILES):
        files["classes"] = _located(run, recipe.classes)
    return recipe.with_(resources=resources, **files)


def _located(run: FittedRun, value: Any) -> Any:
    """A path, or paths, comma-separated or in a list, of the working directory of a fit as they are found from here,
    where they are there; other words as they are."""
    origin = run.info.origin
    if not isinstance(origin, str):
        return value
    if isinstance(value, (list, tuple)):
        return [_located(run, part) for part in value]
    if not isinstance(value, str) or not value:
        return value
    whole = os.path.normpath(run.path / origin / value)
    if Path(whole).exists():
        return whole
    there = [os.path.normpath(run.path / origin / part.strip()) for part in value.split(",")]
    return ",".join(new if Path(new).exists() else old.strip() for new, old in zip(there, value.split(",")))


def fitted_adapter(run: FittedRun, backbone: Backbone | None) -> Adapter:
    """The adapter of a run.

    Raises:
        DataError: it is of other classes than run.json says, or as for `load_adapter`.
    """
    adapter = load_adapter(run.adapter_path, backbone)
    if list(adapter.class_names_) != run.info.class_names:
        raise DataError(f"{run.shown}: run.json and adapter.safetensors have different classes; copy the run again")
    return adapter


def place_of_base(info: RunInfo, beside: Path) -> str | None:
    """Where the base of a stored run lies: where it was at the fit or, if it is not there, beside that run; None where
    the run has none.

    Args:
        info: what run.json of the run that started from it holds.
        beside: the folder of that run.
    """
    if not info.base:
        return None
    place = Path(str(info.base.get("path")))
    moved = beside.absolute().parent / place.name
    return str(moved if not place.exists() and moved.exists() else place)


def labelled_of(
    prepared: PreparedData, adapter: Adapter, shots: Shots, val_taught: bool = False
) -> LabelledImages | None:
    """The labelled images that an adapter was fitted on, by the towers that it predicts with.

    Args:
        val_taught: whether it learned from the val of the draw too.

    Returns:
        None where it learned from no labelled image, or the towers that it trained see nothing in one.
    """
    parts = [part for part in (shots.support, shots.val if val_taught else None) if part is not None and len(part)]
    if not parts or any(part.labels is None for part in parts):
        return None
    features, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("features", "labels"))
    ids = tuple(name for part in parts for name in part.ids)
    learned = FeatureSet(features, labels, tuple(prepared.class_names), ids=ids)
    rows = kept_rows(len(learned))
    labelled, moved = learned.select(list(rows)), on_adapted(prepared, adapter)
    if moved is not prepared:
        counts = replace(prepared.counts)
        seen = moved.of_ids(labelled.ids)
        prepared.counts.computed, prepared.counts.cached = counts.computed, counts.cached  # no image is new to it
        if len(seen) != len(labelled):
            return None
        labelled = replace(labelled, features=seen.features)
    return LabelledImages.of(labelled, rows, len(learned), prepared.class_names)


def placed(labelled: LabelledImages, prepared: PreparedData, info: RunInfo, redacts: bool = False) -> LabelledImages:
    """The labelled images as a run keeps them: with where each lies and what it shows, or with numbers for names.

    Args:
        info: run.json, before anything is redacted.
        redacts: whether the run names and shows no image.
    """
    if redacts:
        return labelled.redacted(Redaction.of(prepared.data, info.skipped))
    if prepared.backbone is None:  # rows of a file have no pictures
        return labelled
    digests_by_part, splits = info.digests or {}, info.splits
    digests = {
        name: digest.partition(" ")[0]
        for part, of in digests_by_part.items()
        if part in splits
        for name, digest in zip(splits[part], of)
    }
    chosen = [_below(item, info.data.path) for item in items_of(labelled.ids, prepared.data.items)]
    return labelled.with_places(chosen, [digests.get(name, "") for name in labelled.ids])


def _below(item: Item, path: str) -> Item:
    """The image with its file as it is found from the data."""
    if path == SAMPLE:  # drawn by the domain, wherever that is installed
        return item.with_(source=Path())
    folder = _folder_of(path)
    return item.with_(source=item.source.relative_to(folder)) if item.source.is_relative_to(folder) else item


def _folder_of(path: str) -> Path:
    """The data themselves, or where the file lies that lists them."""
    return Path(path) if Path(path).is_dir() else Path(path).parent


def labelled_in_run(
    run: FittedRun, domain: Domain | None, task: str, reading: Mapping[str, Any]
) -> tuple[LabelledImages | None, Callable[[Example], Decoded | None]]:
    """The labelled images that a run keeps, or None, and what decodes their pictures.

    Args:
        reading: options of the domain's reader.
    """
    labelled = LabelledImages.load(run.path)
    if labelled is None:
        return None, lambda example: None
    return labelled, LabelledPictures(run, domain, task, labelled, reading).load


@dataclass
class LabelledPictures:
    """Pictures of the labelled images of a run; those that are gone, or show something else by now, are None.

    Args:
        run: its folder.
        domain: whose reader decodes them; None of a run of features.
        reading: options of the reader.
    """

    run: FittedRun
    domain: Domain | None
    task: str
    labelled: LabelledImages
    reading: Mapping[str, Any] = field(default_factory=dict)
    _hashes: FileHashes = field(default_factory=FileHashes, init=False, repr=False)
    _of_sample: DomainData | None = field(default=None, init=False, repr=False)

    def load(self, example: Example) -> Decoded | None:
        """The decoded image of one of them, (H, W, 3) or (T, H, W, 3), or None."""
        position = self.labelled.position(example.row)
        if position is None or self.labelled.places is None or self.domain is None:
            return None
        place = self.labelled.places[position]
        try:
            return self._decoded(Item(example.id, Path(place["source"]), dict(place["decode"])), place["digest"])
        except (VladaptError, OSError, KeyError, TypeError, ValueError):  # the last three where a run was tampered with
            return None

    def path_of(self, source: str) -> Path:
        """Where the file of a picture is found from here."""
        data_place = Path(_located(self.run, self.run.info.data.path))
        return Path(_located(self.run, source)) if Path(source).is_absolute() else _folder_of(str(data_place)) / source

    def _decoded(self, item: Item, digest: str) -> Decoded | None:
        if self.run.info.data.path == SAMPLE:
            self._of_sample = self._of_sample or self.domain.sample_as(self.task, self.reading)
            return self._of_sample.load(item)
        item = item.with_(source=self.path_of(str(item.source)))
        data = images_of(self.domain, [item.source], self.reading)
        if "digest" in item.decode:  # of an array: it must be one that the file has, not one that the run only names
            is_same = item.decode in [each.decode for each in data.items]
        else:
            is_same = image_digest(item, self._hashes) == digest
        return data.load(item) if is_same else None


def notes_of(
    prepared: PreparedData, shots: int | None, further: list[str], drawn: Shots, scenario: str | None = None
) -> list[str]:
    """Sentences for the user, each once.

    Args:
        shots: images per class that were asked for, None for all.
        further: said by the fit and what came after it.
        scenario: how unequal the shots were to be, or None.
    """
    notes, train = [*prepared.notes, *further], prepared.data.split("train")
    classes = len(prepared.class_names)
    short = {} if shots is None else short_classes(train, shots, num_classes=classes)
    if scenario is not None:
        counts = class_counts(drawn.items, classes)
        none = ", ".join(name for name, count in zip(prepared.class_names, counts) if not count)
        notes.append(f"Images drawn per class: {min(counts)} to {max(counts)}" + (f"; none of {none}" if none else ""))
    elif short:
        notes.append(_of_few(short, prepared.class_names, shots))
    if shots and len(train) > 1.5 * len(drawn.support):
        notes.append(f"{len(drawn.support)} of {len(train)} labelled training images were used; --shots all uses all.")
    if drawn.test.labels is not None and len(drawn.test) < 100:
        notes.append(f"The test set has {len(drawn.test)} images; with fewer than 100 the interval is wide.")
    return list(dict.fromkeys(note[0].upper() + note[1:].rstrip(".") + "." for note in notes if note))


def _of_few(short: Mapping[int, int], class_names: Sequence[str], shots: int | None) -> str:
    """Which classes have fewer images than shots; of many, the number."""
    if len(short) <= MOST_NAMED:
        listed = ", ".join(f"{class_names[c]} ({n})" for c, n in sorted(short.items()))
        return f"Fewer than {shots} training images, all used: {listed}."
    few, many = min(short.values()), max(short.values())
    counts, classes = f"{few}" if few == many else f"{few} to {many}", f"{len(short)} of {len(class_names)} classes"
    return f"{classes} have fewer than {shots} training images ({counts}), all used."


def facts_of_model(prepared: PreparedData, adapter: Adapter, place: str) -> dict[str, Any]:
    """What run.json says of a method and of what it was fitted on.

    Args:
        place: of the data, as it was given.
    """
    return {
        "task": prepared.task,
        "adapter": adapter.name,
        "adapter_options": adapter.options,
        "transductive": adapter.transductive,
        "backbone": _backbone_facts(prepared, adapter),
        "data": data_facts(prepared.data, place),
        "class_names": list(prepared.class_names),
        "templates": list(prepared.templates),
        **({} if prepared.base is None else {"base": prepared.base.facts}),
    }


def facts_of_fit(done: Fitted, notes: list[str], seconds: float) -> dict[str, Any]:
    """What run.json says of a fit, of what was drawn for it, and of the work that it was."""
    prepared, shots = done.judged.prepared, done.judged.shots
    of = {"support": shots.support, "val": shots.val, "test": shots.test}
    ids = {split: [] if features is None else list(features.ids or ()) for split, features in of.items()}
    taught = {split: items_of(ids[split], prepared.data.items) for split in ("support", "val")}
    return {
        "fit": done.report.to_dict(),
        "splits": ids,
        "digests": kept_digests(taught, digests_of),
        "skipped": facts_of_skipped(prepared.data.skipped, prepared.skipped),
        "notes": notes,
        "encoded_images": prepared.counts.computed,
        "stored_images": prepared.counts.cached,
        "seconds": round(seconds, 3),
        "versions": versions(),
    }


def facts_of_skipped(*left_out: Sequence[Sequence[str]]) -> list[list[str]]:
    """(File, reason) of what was left out while reading and while encoding, each once."""
    return [list(pair) for pair in dict.fromkeys((str(name), reason) for part in left_out for name, reason in part)]


def _backbone_facts(prepared: PreparedData, adapter: Adapter) -> dict[str, Any] | None:
    """What run.json says of the backbone; the fingerprint of trained towers only where there are any."""
    backbone = prepared.backbone
    if backbone is None:
        return None
    towers = adapter.adapted(backbone)
    trained = {} if towers is backbone else {"adapted_fingerprint": towers.fingerprint}
    facts = {name: getattr(backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    return {**facts, **trained}


def write_fit(run: Run, done: Fitted, info: RunInfo, plain: RunInfo, log: Path | None) -> None:
    """A fit in the folder of its run, but for the report; answers where they cannot be scored.

    Args:
        info: what run.json holds.
        plain: the same before anything was redacted; the same object where nothing is.
        log: the folder of a training's log, or None.
    """
    done.adapter.save(run.adapter_path)
    if done.probe is not None:
        done.probe.save(run.path / PROBE_FILE)
    done.findings.save(run.path)
    if done.labelled is not None:
        placed(done.labelled, done.judged.prepared, plain, redacts=info is not plain).save(run.path)
    if log is not None:
        keep_logs(log, run.path)
    run.write(info, done.scores.metrics)
    run.log("\n".join(log_lines(info, done.report, done.scores.metrics)))
    if done.scores.labels is None:
        write_whole(run.path / PREDICTIONS, answers_table(done.judged, info.splits["test"], with_truth=False))


def run_summary(run: Run, info: RunInfo, scores: Scores, seconds: float) -> dict[str, Any]:
    """The object that `vladapt fit --json` prints."""
    return {
        "run": str(run.path),
        **{key: info[key] for key in ("domain", "task", "adapter")},
        "backbone": info.backbone.spec or None,
        **{key: info[key] for key in ("shots", "seed")},
        **scores.metrics,
        "seconds": round(seconds, 3),
    }


def answers_table(judged: JudgedClassifier, ids: Sequence[str], with_truth: bool) -> str:
    """A CSV with a row per image: id, what it was called, with the confidence; of several labels a probability each.

    Args:
        ids: of the scored images, in the order of the scores.
        with_truth: whether a column says what each is, where that is known and it has one label.
    """
    logits, labels, names = judged.scores.adapted_logits.float(), judged.scores.labels, list(judged.class_names)
    several = labels is not None and labels.ndim == 2
    plain = logits.sigmoid() if several else logits.softmax(dim=1)
    probs = plain if judged.calibration is None else judged.calibration.probabilities(logits)
    if several:
        values = ([f"{value:.6f}" for value in row] for row in probs.tolist())
        return csv_text(["id", *names], ([name, *row] for name, row in zip(ids, values)))
    confidences, called = (each.tolist() for each in probs.max(dim=1))
    truth = [[]] * len(called)
    if with_truth:
        truth = [[""]] * len(called) if labels is None else [[names[label]] for label in labels.tolist()]
    columns = ["id", *(["true"] if with_truth else []), "label", "confidence"]
    rows = zip(ids, truth, called, confidences)
    return csv_text(columns, ([name, *true, names[label], f"{sure:.6f}"] for name, true, label, sure in rows))


def log_lines(info: RunInfo, report: FitReport, metrics: dict[str, Any]) -> list[str]:
    """What log.txt says."""
    lines = [f"{key}: {info[key]}" for key in ("created", "domain", "task", "adapter", "shots", "seed")]
    lines += [f"options: {in_words(info.adapter_options)}", choice(report)]
    lines += [f"note: {note}" for note in info.notes]
    lines += [f"skipped: {name}: {reason}" for name, reason in info.skipped]
    lines += [f"{side}: {in_words(metrics[side])}" for side in ("zero_shot", "adapted") if metrics[side] is not None]
    return [line for line in lines if line]
