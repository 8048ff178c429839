"""What report.html shows, as plain values: its template only lays them out."""

from __future__ import annotations

from typing import Any

from ..contracts.errors import DataError
from ..metrics.calibration import CalibrationBin, calibration_curve
from ..metrics.classification import confusion_matrix
from ..metrics.mistakes import top_label_mistakes, top_mistakes
from ..metrics.per_class import ClassRow, per_class_table
from .pictures import data_uri
from .report_facts import facts, licences, share_of_counts, snippets
from .verdict import commonest, verdict_of_accuracy, verdict_of_auroc, warnings_of_accuracy, warnings_of_auroc

MANY_CLASSES = 100
SHOWN_OF_MANY = 20
WIDEST_MATRIX = 25
PAIRS = 20
MISTAKES = 12
SKIPPED_ROWS = 200

MEANING = {
    "accuracy": ("Accuracy", "share of test images named rightly", True),
    "balanced_accuracy": ("Balanced accuracy", "the same, with every class counting alike", True),
    "macro_f1": ("Macro F1", "finding a class against over-calling it, mean of classes; 1 is best", False),
    "auroc": ("AUROC", "chance that an image with the class scores above one without; 0.5 is guessing", False),
    "mean_average_precision": ("Mean average precision", "precision over all thresholds, mean of labels", False),
    "ece": ("Calibration error", "mean gap between confidence and how often it is right; 0 is best", False),
}


def content(given, run_name: str) -> dict[str, Any]:
    """Every value of the template, from a ReportInput."""
    info, metrics = given.info, given.metrics
    parts = _of_several_labels(given) if given.multilabel else _of_one_label(given)
    return {
        "title": _title(info),
        "created": str(info.get("created", ""))[:16].replace("T", " "),
        "run_name": run_name,
        "multilabel": given.multilabel,
        "compared": given.zero_shot_logits is not None,
        "test_images": len(given.labels),
        "seen": "that it saw without their labels" if given.info.get("transductive") else "that it never saw",
        "notes": list(info.get("notes", ())),
        "facts": facts(info, len(given.class_names)),
        "counts": share_of_counts(info, given.class_names),
        "scores": _scores(metrics),
        "novel": metrics.get("novel"),
        "generic": metrics.get("generic"),
        "calibration": _calibration(given),
        "pictures": given.thumbnails is not None,
        "skipped": list(given.skipped)[:SKIPPED_ROWS],
        "skipped_total": len(given.skipped),
        "licences": licences(info),
        "use": snippets(info, run_name, given.multilabel),
        "versions": info.get("versions", {}),
        **parts,
    }


def _title(info: dict[str, Any]) -> str:
    data = info.get("data", {}).get("name") or "a data set"
    return f"{info.get('adapter', 'Adapter')} on {data}"


def _of_one_label(given) -> dict[str, Any]:
    metrics = given.metrics
    notes = given.info.get("notes", [])
    name, share = commonest(given.labels, given.class_names)
    rows = per_class_table(given.labels, given.zero_shot_logits, given.adapted_logits, given.class_names)
    return {
        "headline": _headline(metrics, "accuracy", "Accuracy", True, (f"Always “{name}”", share)),
        "verdict": verdict_of_accuracy(metrics.get("mcnemar")),
        "warnings": warnings_of_accuracy(metrics, given.labels, given.class_names, notes),
        "classes": _shown_classes(rows),
        "labels": None,
        "confusion": _confusion(given),
        "mistakes": _mistakes(given),
    }


def _of_several_labels(given) -> dict[str, Any]:
    metrics = given.metrics
    notes = given.info.get("notes", [])
    compared = given.zero_shot_logits is not None
    return {
        "headline": _headline(metrics, "auroc", "AUROC, mean of labels", False, ("Guessing", 0.5)),
        "verdict": verdict_of_auroc(metrics.get("gain_interval"), compared),
        "warnings": warnings_of_auroc(metrics, len(given.labels), notes),
        "classes": None,
        "labels": _label_rows(given),
        "confusion": None,
        "mistakes": _label_mistakes(given),
    }


def _headline(metrics, key: str, name: str, as_percent: bool, floor: tuple[str, float]) -> dict[str, Any]:
    """The deciding score of both models, and what one gets without a model."""
    intervals = metrics.get("intervals", {})
    rows = [{"name": floor[0], "value": floor[1], "interval": None, "kind": "floor"}]
    for side, label in (("zero_shot", "Zero-shot"), ("adapted", "Adapted")):
        if metrics.get(side):
            rows.append({"name": label, "value": metrics[side][key], "interval": intervals.get(side), "kind": side})
    before, after = (metrics.get(side) or {} for side in ("zero_shot", "adapted"))
    both = before.get(key) is not None and after.get(key) is not None
    return {
        "name": name,
        "as_percent": as_percent,
        "rows": rows,
        "before": before.get(key),
        "after": after.get(key),
        "interval": intervals.get("adapted"),
        "before_interval": intervals.get("zero_shot"),
        "gain": after[key] - before[key] if both else None,
    }


def _scores(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    before, after = metrics.get("zero_shot") or {}, metrics.get("adapted") or {}
    return [
        {"name": name, "meaning": meaning, "as_percent": share, "before": before.get(key), "after": after[key]}
        for key, (name, meaning, share) in MEANING.items()
        if key in after
    ]


def _shown_classes(rows: list[ClassRow]) -> dict[str, Any]:
    """All classes, or the worst and the best of many, by recall."""
    if len(rows) < MANY_CLASSES:
        return {"groups": [("", rows)], "total": len(rows), "all": True}
    tested = sorted((row for row in rows if row.recall is not None), key=lambda row: (row.recall, row.f1, row.name))
    groups = [(f"The {SHOWN_OF_MANY} worst", tested[:SHOWN_OF_MANY])]
    best = tested[SHOWN_OF_MANY:][-SHOWN_OF_MANY:][::-1]
    groups += [(f"The {len(best)} best", best)] if best else []
    return {"groups": groups, "total": len(rows), "all": False}


def _label_rows(given) -> list[dict[str, Any]]:
    before, after = given.metrics.get("zero_shot") or {}, given.metrics["adapted"]
    rows = []
    for c, name in enumerate(given.class_names):
        column = given.labels[:, c]
        old, new = before.get(f"auroc/{name}"), after.get(f"auroc/{name}")
        rows.append(
            {
                "name": name,
                "known": int((~column.isnan()).sum()),
                "positive": int((column == 1).sum()),
                "before": old,
                "after": new,
                "gain": None if old is None or new is None else new - old,
            }
        )
    return rows


def _confusion(given) -> dict[str, Any]:
    """The matrix of few classes; of many, the pairs most often taken for each other."""
    names = list(given.class_names)
    matrix = confusion_matrix(given.adapted_logits, given.labels, len(names))  # (C, C)
    total = matrix.sum(dim=1, keepdim=True).clamp(min=1)
    share = matrix / total
    off = matrix.clone().fill_diagonal_(0)
    worst = off.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    places = [divmod(place, len(names)) for place in worst]
    pairs = [
        {"true": names[r], "called": names[c], "count": int(off[r, c]), "of": int(matrix[r].sum())}
        for r, c in places
        if off[r, c] > 0
    ]
    if len(names) > WIDEST_MATRIX:
        return {"rows": None, "pairs": pairs, "names": names}
    rows = [
        [{"count": int(matrix[r, c]), "share": float(share[r, c]), "right": r == c} for c in range(len(names))]
        for r in range(len(names))
    ]
    return {"rows": rows, "pairs": pairs, "names": names}


def _calibration(given) -> dict[str, Any]:
    before = None if given.zero_shot_logits is None else calibration_curve(given.zero_shot_logits, given.labels)
    after = calibration_curve(given.adapted_logits, given.labels)
    most = max(found.count for found in after)
    return {
        "before": [] if before is None else _dots(before),
        "after": _dots(after),
        "bars": [{"low": b.low, "high": b.high, "height": b.count / most, "count": b.count} for b in after],
        "ece_before": (given.metrics.get("zero_shot") or {}).get("ece"),
        "ece": given.metrics["adapted"].get("ece"),
        "words": _calibration_words(after),
    }


def _dots(curve: list[CalibrationBin]) -> list[dict[str, Any]]:
    total = sum(found.count for found in curve)
    return [
        {"x": b.confidence, "y": b.accuracy, "radius": 2.5 + 5.5 * (b.count / total) ** 0.5, "count": b.count}
        for b in curve
        if b.count
    ]


def _calibration_words(curve: list[CalibrationBin]) -> str:
    """Over- or under-confident, told from the mean gap."""
    filled = [found for found in curve if found.count]
    total = sum(found.count for found in filled)
    gap = sum(found.count * (found.confidence - found.accuracy) for found in filled) / total
    if abs(gap) < 0.02:
        return "Taken together, the adapted model is about as sure as it is right."
    how = "surer than it is right (overconfident)" if gap > 0 else "less sure than it could be (underconfident)"
    return f"Taken together, the adapted model is {how}, by {100 * abs(gap):.0f} points."


def _mistakes(given) -> list[dict[str, Any]]:
    return [
        {
            **_picture(given, found.index),
            "true": given.class_names[found.true],
            "called": given.class_names[found.predicted],
            "confidence": found.confidence,
        }
        for found in top_mistakes(given.adapted_logits, given.labels, MISTAKES)
    ]


def _label_mistakes(given) -> list[dict[str, Any]]:
    return [
        {
            **_picture(given, found.index),
            "true": f"{given.class_names[found.label]}: {'present' if found.present else 'absent'}",
            "called": "absent" if found.present else "present",
            "confidence": found.confidence,
        }
        for found in top_label_mistakes(given.adapted_logits, given.labels, MISTAKES)
    ]


def _picture(given, index: int) -> dict[str, Any]:
    """The name and the image of a test row; no image where there is none, or where it can no longer be read."""
    name = given.ids[index] if index < len(given.ids) else f"test image {index + 1}"
    if given.thumbnails is None:
        return {"id": name, "image": None}
    try:
        return {"id": name, "image": data_uri(given.thumbnails(index))}
    except DataError:
        return {"id": name, "image": None}
