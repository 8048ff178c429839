"""Classification as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "mean_average_precision": "mean average precision",
    "ece": "calibration error (0 is best)",
}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Zero-shot and adapted side by side, with the change and the interval of the deciding metric."""
    images = metrics["test_images"]
    table = Table(title=f"{images} test image{'s' * (images != 1)}", title_justify="left")
    for name in ("", "zero-shot", "adapted", "change"):
        table.add_column(name, justify="left" if not name else "right")
    before, after = metrics["zero_shot"] or {}, metrics["adapted"]
    decides = "auroc" if "gain_interval" in metrics else "accuracy"
    intervals = metrics.get("intervals") or {}
    for key in [*(k for k in SHOWN if k in after), *(k for k in after if k not in SHOWN)]:
        old, new = before.get(key), after[key]
        low_high = intervals if key == decides else {}
        table.add_row(
            SHOWN.get(key, key.replace("auroc/", "AUROC ").replace("_", " ")),
            _number(key, old) + _interval(low_high.get("zero_shot")),
            _number(key, new) + _interval(low_high.get("adapted")),
            "" if old is None or new is None else f"{new - old:+.1%}",
        )
    return table


def verdict(metrics: Mapping[str, Any]) -> str:
    """One sentence: is the difference to zero-shot more than chance?"""
    if metrics.get("gain_interval"):
        low, high = metrics["gain_interval"]
        words = "a gain beyond chance" if low > 0 else "a LOSS beyond chance" if high < 0 else "this could be chance"
        return f"AUROC changes by {low:+.1%} to {high:+.1%} (95 % bootstrap interval): {words}."
    test = metrics.get("mcnemar")
    if not test:
        return ""
    if not test["gained"] and not test["lost"]:
        return "The same images are right as with zero-shot: nothing gained, nothing lost."
    changed = f"{test['gained']} images right that zero-shot got wrong, {test['lost']} the other way round"
    if test["p_value"] >= 0.05:
        return f"{changed}: this difference could be chance (McNemar p = {test['p_value']:.2g})."
    kind = "gain" if test["gained"] > test["lost"] else "LOSS"
    return f"{changed}: a {kind} beyond chance (McNemar p = {test['p_value']:.2g})."


def predictions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per image: what it is, how sure, and the runners-up."""
    table = Table()
    for name in ("image", "prediction", "confidence", "next"):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows:
        if "labels" in row:
            label, sure = ", ".join(row["labels"]) or "none", ""
            rest = row["top"]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = row["top"][1:]
        table.add_row(row["id"], label, sure, ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest))
    return table


def _number(key: str, value: float | None) -> str:
    """Shares as percentages; any other metric as it is."""
    if value is None:
        return "–"
    return f"{value:.1%}" if key in SHOWN or key.startswith("auroc/") else f"{value:.4g}"


def _interval(bounds: Sequence[float] | None) -> str:
    return f" ({bounds[0]:.0%} to {bounds[1]:.0%})" if bounds else ""
