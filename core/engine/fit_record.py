"""What a fit leaves behind: run.json, the summary, the log and the results for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine import Config

from ..contracts.adapter import Adapter, FitReport
from ..data.sampling import short_classes
from ..runs.folder import Run
from ..tasks.classification.report import ClassificationResults
from .evaluate import Scores
from .prepare import Prepared, Shots, split_counts
from .prepare_features import PreparedFeatures
from .recipe import as_data
from .tables import choice, in_words
from .versions import now, versions


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
    if len(drawn.test) < 100:
        notes.append(f"The test set has {len(drawn.test)} images; with fewer than 100 the interval is wide.")
    return list(dict.fromkeys(note[0].upper() + note[1:].rstrip(".") + "." for note in notes if note))


def info_of(recipe, prepared, adapter, report, shots, notes, seconds) -> dict[str, Any]:
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
        "recipe": as_data(recipe),
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


def place_of_data(recipe: Config) -> str:
    """Where the data lies, whatever folder a later command is called from."""
    given = str(recipe.features or recipe.data.path)
    return given if given == "sample" else str(Path(given).absolute())


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


def log_lines(info: dict[str, Any], report: FitReport, metrics: dict[str, Any]) -> list[str]:
    """What log.txt says."""
    lines = [f"{key}: {info[key]}" for key in ("created", "domain", "task", "adapter", "shots", "seed")]
    lines += [f"options: {in_words(info['adapter_options'])}", choice(report)]
    lines += [f"note: {note}" for note in info["notes"]]
    lines += [f"skipped: {name}: {reason}" for name, reason in info["skipped"]]
    lines += [f"{side}: {in_words(metrics[side])}" for side in ("zero_shot", "adapted")]
    return [line for line in lines if line]
