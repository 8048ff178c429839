"""One fit of an adapter on a draw of shots, and its scores: on the test set, on novel and on generic images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ...contracts.adapter import Adapter, FitReport
from ...contracts.features import FeatureSet
from ...contracts.images import TrainingPlace
from ...contracts.items import Item
from ...contracts.judgement import FIT, Findings, JudgedClassifier, Scores
from ...contracts.part_views import IMAGES
from ...contracts.prepared import PreparedData, Shots, on_adapted
from ...contracts.recipe import Recipe
from ...contracts.task import Task
from ...data.sampling import class_counts, short_classes
from ...errors import CapabilityError, ConfigError
from ...explanation.nearest import LabelledImages
from ...features.batches import OF_IMAGES
from ...forgetting.probe import probe_of
from ...registry import build_adapter, build_judgement
from ...registry.build import judgements_of, judges_at
from ...runs.evaluations import digests_of, kept_digests
from ...runs.folder import Run, now, versions
from ...runs.sections import choice, in_words
from ...runtime.files import write_whole
from ...runtime.progress import Reporter, training_lines
from ..methods import adapter_of, place_of_data, read_data, split_counts, trains_towers
from .baselines import PROBE, fitted_probe
from .feature_rows import prepared_of
from .protocols import as_published, deciding_by_protocol, transfer_of
from .resources import check_needs
from .results import ClassificationResults
from .scoring import fitted_zero_shot, score_on
from .unlabelled import Unlabelled

PREDICTIONS = "predictions.csv"
"""Of a run whose test rows have no labels."""
NOWHERE = TrainingPlace(None)
"""Of a fit whose checkpoints nobody needs."""


@dataclass(kw_only=True)
class ClassificationFit(JudgedClassifier):
    """A fit, as its judgements see it."""

    def fit_again(self, adapter: Adapter, prepared: PreparedData, shots: Shots, quiet: bool = False) -> FitReport:
        return fit_adapter(adapter, prepared, shots, self.seed, Reporter(quiet=True) if quiet else prepared.reporter)

    def score_again(self, adapter: Adapter, prepared: PreparedData, test: FeatureSet, beside: bool = False) -> Scores:
        zero_shot = fitted_zero_shot(test, prepared.classifier) if beside else None
        scores = score_on(prepared, adapter, test, prepared.class_names, zero_shot, prepared.reporter)
        if beside:
            of = {"test": test, "class_names": prepared.class_names, "scores": scores, "metrics": scores.metrics}
            again = replace(self, prepared=prepared, adapter=adapter, deciding="", **of)
            Findings({}).add([build_judgement("baselines")], again)
        return scores


@dataclass
class Fitted:
    """A fitted adapter with its scores.

    Attributes:
        notes: what its judgements say, in sentences.
        judged: the fit, as its judgements see it.
        findings: what they found.
        probe: the logistic regression on the same images, or None.
        judge: what was found of a fit without labels, for run.json; None where labels were learned from.
        labelled: the labelled images that it learned from, or None.
    """

    adapter: Adapter
    report: FitReport
    scores: Scores
    notes: list[str]
    judged: ClassificationFit
    findings: Findings
    probe: Adapter | None = None
    judge: dict[str, Any] | None = None
    labelled: LabelledImages | None = None


def fit_adapter(
    adapter: Adapter,
    prepared: PreparedData,
    shots: Shots,
    seed: int,
    reporter: Reporter,
    place: TrainingPlace = NOWHERE,
) -> FitReport:
    """Fit an adapter on one draw.

    Args:
        place: for adapters that train towers; the reporter hears of the training.
    """
    if not (adapter.text_free or prepared.classifier.has_texts):
        raise CapabilityError(
            f"adapter '{adapter.name}' learns from class texts, and these features have none, because they come from "
            "an image tower alone; choose linear-probe or tip-adapter"
        )
    unlabelled = Unlabelled.of(adapter, prepared, shots)
    counts = [f"{len(shots.support)} images"] if len(shots.support) or not unlabelled.items else []
    counts += [f"{len(unlabelled.items)} images without labels"] if unlabelled.items else []
    reporter.info(f"Fitting {adapter.name} on {' and '.join(counts)}")
    with _resources(adapter, prepared, shots, unlabelled, reporter, place) as resources:
        return adapter.fit(
            shots.support,
            prepared.classifier,
            val=shots.val_of_fit,
            unlabeled=unlabelled.features,
            backbone=prepared.backbone,
            resources=resources,
            seed=seed,
        )


def refitted(
    adapter: Adapter,
    report: FitReport,
    prepared: PreparedData,
    shots: Shots,
    seed: int,
    reporter: Reporter,
    place: TrainingPlace = NOWHERE,
) -> tuple[Adapter, FitReport]:
    """The method with the settings that it chose, fitted on support and val together.

    Args:
        adapter, report: of the fit that chose.
        place: of the fit that chose; the second training has a folder of its own in it.
    """
    if shots.val is None:
        report.notes.append("--refit: there were no val images to add")
        return adapter, report
    again = build_adapter(adapter.name, **{**adapter.options, **adapter.settled(report)})
    both = prepared.with_val(shots)
    inside = replace(place, folder=None if place.folder is None else place.folder / "refit", resume=False)
    second = fit_adapter(again, prepared, both, seed, reporter, inside)
    second.notes.append(
        f"fitted again with the chosen settings on {len(both.support)} images: {len(shots.support)} of the support and "
        f"{len(shots.val)} of val"
    )
    chosen = {"chosen": {**second.chosen, **report.chosen}, "chosen_on": report.chosen_on}
    chosen |= {"val_score": report.val_score, "judged": report.judged}
    if report.judged:  # the fit that took one of several methods says why
        second.notes = list(dict.fromkeys([*report.notes, *second.notes]))
    return again, replace(second, **chosen, history=[*report.history, *second.history])


def scored(
    recipe: Recipe,
    prepared: PreparedData,
    adapter: Adapter,
    report: FitReport,
    shots: Shots,
    task: Task,
    reporter: Reporter,
) -> Fitted:
    """Zero-shot and the adapted model on the test set, with all judgements that fit nothing again."""
    zero_shot = fitted_zero_shot(shots.support, prepared.classifier)
    options = as_published(recipe, [PROBE]).adapters.get(PROBE) or {} if recipe.protocol else {}
    probe = fitted_probe(adapter, shots.support, prepared.classifier, shots.val_of_fit, recipe.seed, options)
    scores = score_on(prepared, adapter, shots.test, prepared.class_names, zero_shot, reporter, probe=probe)
    judged = ClassificationFit(
        at=FIT,
        seed=recipe.seed,
        split_seed=recipe.split_seed,
        reporter=reporter,
        before=prepared.backbone,
        after=on_adapted(prepared, adapter).backbone,
        metrics=scores.metrics,
        workers=recipe.workers,
        amp=recipe.amp,
        generic=recipe.generic,
        adapter=adapter,
        prepared=prepared,
        test=shots.test,
        class_names=prepared.class_names,
        scores=scores,
        deciding=deciding_by_protocol(recipe),
        novel=partial(_unseen, recipe, prepared, task.name) if recipe.novel else None,
        report=report,
        shots=shots,
        refitted=recipe.refit,
    )
    findings = Findings(judgements_of(task))
    notes = findings.add([each for each in judges_at(task, FIT, recipe.task_options) if not each.refits], judged)
    return Fitted(adapter, report, scores, notes, judged, findings, probe)


def refuse_early(recipe: Recipe, adapter: Adapter, prepared: PreparedData, task: str) -> None:
    """Raise what can be told before anything is encoded or fitted."""
    check_needs(recipe.resources, adapter, prepared.backbone)
    adapter.check_kind(several_labels=prepared.data.kind == "multilabel", text_encoder=prepared.backbone is not None)
    if prepared.data.part_views is not None and adapter.at_predict & (OF_IMAGES | {"patch_tokens"}):
        raise CapabilityError(f"adapter '{adapter.name}' {IMAGES}")
    if (transfer := transfer_of(recipe)) is not None:
        transfer.check(adapter)
    if recipe.novel and "new_classes" not in adapter.can:
        raise CapabilityError(
            f"--novel: adapter '{adapter.name}' has no scores for classes it never saw; learn a prompt instead (coop)"
        )
    if recipe.novel and (count := len(_left_out(recipe, prepared, task))) < 2:
        raise ConfigError(f"--novel: --classes leaves out {count}, at least two are needed; name fewer classes")
    if recipe.generic and trains_towers(adapter.name):
        probe_of(recipe.generic)  # a folder that cannot be used is found out here
    if prepared.base is not None:
        prepared.base.check_classes(prepared.class_names)
    if "keys" in adapter.needs | adapter.optional:
        prepared.resources.keyed  # noqa: B018 (a backbone of keys that cannot be loaded is found out here)
    prepared.classifier  # noqa: B018 (descriptions and templates that cannot be used are found out here)


@contextmanager
def _resources(
    adapter: Adapter,
    prepared: PreparedData,
    shots: Shots,
    unlabelled: Unlabelled,
    reporter: Reporter,
    place: TrainingPlace,
) -> Iterator[dict[str, Any]]:
    """What an adapter needs besides features, and the place of a training with its progress."""
    collected = prepared.resources.collect(adapter, shots)
    if prepared.base is not None and "base" in adapter.needs | adapter.optional:
        collected["base"] = prepared.base.predictions(prepared, shots.test)
    if "pixels" not in adapter.needs:
        yield collected
        return
    if unlabelled.features is not None:
        collected["unlabeled_images"] = unlabelled.images(collected["images"])
    told = adapter.options.get("log_every")
    with training_lines(reporter, f"Training {adapter.name}", told) as on_step:
        yield {**collected, "place": replace(place, on_step=on_step, on_message=reporter.info)}


def _unseen(recipe: Recipe, prepared: PreparedData, task: str) -> PreparedData:
    """The data of the classes left out by `classes`."""
    others = recipe.with_(classes=_left_out(recipe, prepared, task))
    return prepared_of(others, Reporter(quiet=True), prepared.domain, task)


def _left_out(recipe: Recipe, prepared: PreparedData, task: str) -> list[str]:
    """Names of the classes that `classes` leaves out."""
    seen = set(prepared.class_names)
    if prepared.domain is None:
        every = prepared.all_class_names
    else:
        every = read_data(recipe, prepared.domain, task).class_names
    return [name for name in every if name not in seen]


def parts_wanted(adapter: Adapter) -> bool:
    """Whether the adapter is fitted on the parts of each sample."""
    return "parts" in adapter.needs | adapter.optional


def planned(recipe: Recipe, names: list[str]) -> dict[str, Adapter]:
    """Each adapter of a comparison, not fitted."""
    return {name: adapter_of(recipe.with_adapter(name)) for name in names}


def notes_of(
    prepared: PreparedData, shots: int | None, further: list[str], drawn: Shots, scenario: str | None = None
) -> list[str]:
    """Sentences for the user, each once.

    Args:
        shots: images per class that were asked for, None for all.
        further: said by the fit and what came after it.
        scenario: how unequal the shots were to be, or None.
    """
    of_base = [] if prepared.base is None else prepared.base.notes(prepared)
    notes, train = [*prepared.notes, *further, *of_base], prepared.data.split("train")
    classes = len(prepared.class_names)
    short = {} if shots is None else short_classes(train, shots, num_classes=classes)
    if scenario is not None:
        counts = class_counts(drawn.items, classes)
        none = ", ".join(name for name, count in zip(prepared.class_names, counts) if not count)
        notes.append(f"Images drawn per class: {min(counts)} to {max(counts)}" + (f"; none of {none}" if none else ""))
    elif short:
        listed = ", ".join(f"{prepared.class_names[c]} ({n})" for c, n in sorted(short.items()))
        notes.append(f"Fewer than {shots} training images, all used: {listed}.")
    if shots and len(train) > 1.5 * len(drawn.support):
        notes.append(f"{len(drawn.support)} of {len(train)} labelled training images were used; --shots all uses all.")
    if drawn.test.labels is not None and len(drawn.test) < 100:
        notes.append(f"The test set has {len(drawn.test)} images; with fewer than 100 the interval is wide.")
    return list(dict.fromkeys(note[0].upper() + note[1:].rstrip(".") + "." for note in notes if note))


def info_of(recipe: Recipe, prepared: PreparedData, adapter, report, shots, notes, seconds) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "created": now(),
        "domain": recipe.domain,
        "task": prepared.task,
        "adapter": adapter.name,
        "adapter_options": adapter.options,
        "transductive": adapter.transductive,
        "backbone": _backbone_facts(prepared, adapter),
        "data": {
            "name": prepared.data.name,
            "path": place_of_data(recipe),
            "kind": prepared.data.kind,
            "licence": prepared.data.licence,
            "counts": split_counts(prepared.data),
        },
        "class_names": list(prepared.class_names),
        "templates": list(prepared.templates),
        **({} if prepared.base is None else {"base": prepared.base.facts}),
        "shots": recipe.shots,
        "seed": recipe.seed,
        "fit": report.to_dict(),
        "splits": {
            "support": list(shots.support.ids or ()),
            "val": list((shots.val.ids if shots.val is not None else None) or ()),
            "test": list(shots.test.ids or ()),
        },
        "digests": kept_digests(
            {"support": _items_of(prepared, shots.support), "val": _items_of(prepared, shots.val)}, digests_of
        ),
        "skipped": [list(pair) for pair in _skipped(prepared)],
        "notes": notes,
        "encoded_images": prepared.counts.computed,
        "stored_images": prepared.counts.cached,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": recipe.with_(data={**recipe.data, **prepared.data.reading}).to_dict(),
    }


def _items_of(prepared: PreparedData, features: FeatureSet | None) -> list[Item]:
    by_id = {item.id: item for item in prepared.data.items}
    return [by_id[i] for i in (() if features is None else features.ids or ())]


def _backbone_facts(prepared: PreparedData, adapter: Adapter) -> dict[str, Any] | None:
    """What run.json says of the backbone; the fingerprint of trained towers only where there are any."""
    backbone = prepared.backbone
    if backbone is None:
        return None
    towers = adapter.adapted(backbone)
    trained = {} if towers is backbone else {"adapted_fingerprint": towers.fingerprint}
    facts = {name: getattr(backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    return {**facts, **trained}


def _skipped(prepared: PreparedData) -> list[tuple[str, str]]:
    """What was left out while reading and while encoding, each once."""
    return list(dict.fromkeys((str(name), reason) for name, reason in [*prepared.data.skipped, *prepared.skipped]))


def summary_of(run: Run, info: dict[str, Any], scores: Scores, seconds: float) -> dict[str, Any]:
    """The object that `vladapt fit --json` prints."""
    return {
        "run": str(run.path),
        **{key: info[key] for key in ("domain", "task", "adapter")},
        "backbone": None if info["backbone"] is None else info["backbone"]["spec"],
        "shots": info["shots"],
        "seed": info["seed"],
        **scores.metrics,
        "seconds": round(seconds, 3),
    }


def results_of(prepared: PreparedData, info: dict[str, Any], done: Fitted) -> ClassificationResults:
    """What report.html is made of."""
    scores = done.scores
    return ClassificationResults(
        info=info,
        class_names=list(prepared.class_names),
        labels=scores.labels,
        zero_shot_logits=scores.zero_shot_logits,
        adapted_logits=scores.adapted_logits,
        ids=info["splits"]["test"],
        thumbnails=prepared.thumbnail,
        metrics=scores.metrics,
        skipped=[tuple(pair) for pair in info["skipped"]],
        calibration=done.judged.calibration,
        groups=scores.groups,
        findings=done.findings,
    )


def write_predictions(path: Path, info: dict[str, Any], done: Fitted) -> None:
    """A CSV of what each test row was classified as: id, label, confidence."""
    logits = done.scores.adapted_logits.float()
    calibration = done.judged.calibration
    probs = logits.softmax(dim=1) if calibration is None else calibration.probabilities(logits)
    confidences, labels = probs.max(dim=1)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "label", "confidence"])
    rows = zip(info["splits"]["test"], labels.tolist(), confidences.tolist())
    writer.writerows([name, info["class_names"][label], f"{confidence:.6f}"] for name, label, confidence in rows)
    write_whole(path, text.getvalue())


def log_lines(info: dict[str, Any], report: FitReport, metrics: dict[str, Any]) -> list[str]:
    """What log.txt says."""
    lines = [f"{key}: {info[key]}" for key in ("created", "domain", "task", "adapter", "shots", "seed")]
    lines += [f"options: {in_words(info['adapter_options'])}", choice(report)]
    lines += [f"note: {note}" for note in info["notes"]]
    lines += [f"skipped: {name}: {reason}" for name, reason in info["skipped"]]
    lines += [f"{side}: {in_words(metrics[side])}" for side in ("zero_shot", "adapted") if metrics[side] is not None]
    return [line for line in lines if line]
