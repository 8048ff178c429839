"""What a fit leaves behind: run.json, the summary, the log and the results for the report."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ...contracts.adapter import Adapter, FitReport
from ...contracts.recipe import Recipe
from ...data.sampling import short_classes
from ...runs.folder import Run
from ...runs.sections import choice, in_words
from ...runtime.files import write_whole
from ...runtime.versions import now, versions
from ..methods import place_of_data, split_counts
from .feature_rows import PreparedFeatures
from .images import Prepared, Shots
from .report import ClassificationResults
from .scoring import Scores

PREDICTIONS = "predictions.csv"
"""Of a run whose test rows have no labels."""


def notes_of(prepared, shots: int, said: list[str], drawn: Shots) -> list[str]:
    """Sentences for the user, each once.

    Args:
        said: by the fit and what came after it.
    """
    notes = [*prepared.notes, *said]
    short = short_classes(prepared.data.split("train"), shots, num_classes=len(prepared.class_names))
    if short:
        listed = ", ".join(f"{prepared.class_names[c]} ({n})" for c, n in sorted(short.items()))
        notes.append(f"Fewer than {shots} training images, all used: {listed}.")
    if drawn.test.labels is not None and len(drawn.test) < 100:
        notes.append(f"The test set has {len(drawn.test)} images; with fewer than 100 the interval is wide.")
    return list(dict.fromkeys(note[0].upper() + note[1:].rstrip(".") + "." for note in notes if note))


def info_of(recipe: Recipe, prepared, adapter, report, shots, notes, seconds) -> dict[str, Any]:
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
        "shots": recipe.shots,
        "seed": recipe.seed,
        "fit": report.to_dict(),
        "splits": {
            "support": list(shots.support.ids or ()),
            "val": list((shots.val.ids if shots.val is not None else None) or ()),
            "test": list(shots.test.ids or ()),
        },
        "skipped": [list(pair) for pair in _skipped(prepared)],
        "notes": notes,
        "encoded_images": prepared.counts.computed,
        "stored_images": prepared.counts.cached,
        "seconds": round(seconds, 3),
        "versions": versions(),
        "recipe": recipe.to_dict(),
    }


def _backbone_facts(prepared, adapter: Adapter) -> dict[str, Any] | None:
    """What run.json says of the backbone; the fingerprint of trained towers only where there are any."""
    backbone = prepared.backbone
    if backbone is None:
        return None
    towers = adapter.adapted(backbone)
    trained = {} if towers is backbone else {"adapted_fingerprint": towers.fingerprint}
    facts = {name: getattr(backbone, name) for name in ("spec", "fingerprint", "licence", "image_size")}
    return {**facts, **trained}


def _skipped(prepared: Prepared | PreparedFeatures) -> list[tuple[str, str]]:
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


def results_of(prepared, info: dict[str, Any], scores: Scores) -> ClassificationResults:
    """What report.html is made of."""
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
    )


def write_predictions(path: Path, info: dict[str, Any], scores: Scores) -> None:
    """A CSV of what each test row was classified as: id, label, confidence."""
    confidences, labels = scores.adapted_logits.float().softmax(dim=1).max(dim=1)
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
    lines += [f"{side}: {in_words(metrics[side])}" for side in ("zero_shot", "adapted")]
    return [line for line in lines if line]
