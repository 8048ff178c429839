"""Scores of a fitted adapter and of zero-shot on the same test set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from ...contracts.adapter import Adapter
from ...contracts.domain import Metric
from ...contracts.features import Batch, FeatureSet, TextClassifier
from ...errors import DataError
from ...metrics.classification import classification_metrics, multilabel_metrics
from ...metrics.significance import SIGNIFICANT, auroc_certainty, mcnemar, p_words, wilson_interval
from ...registry import build_adapter
from ...runs.run_sections import small_test_set
from ...runs.sections import VerdictSection, plural
from ...runtime.progress import Reporter
from .resources import PLAIN, logits_of, plain_batches

SHOWN = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "mean_average_precision": "mean average precision",
    "ece": "calibration error (0 is best)",
    "ece_uncalibrated": "calibration error, not calibrated",
}
NO_ZERO_SHOT = VerdictSection("open", "Nothing to compare with", "There is no zero-shot score for this task.")


@dataclass
class Scores:
    """Logits and metrics of zero-shot and of the adapted model on one test set.

    Attributes:
        labels: (N,), or (N, C); None where the test images have none.
        zero_shot_logits: (N, C), or None where zero-shot means nothing.
        adapted_logits: (N, C).
        metrics: {"zero_shot": {...}, "adapted": {...}, "intervals": {...}, "mcnemar": {...}, "test_images": N}.
    """

    labels: Tensor | None
    zero_shot_logits: Tensor | None
    adapted_logits: Tensor
    metrics: dict[str, Any]


def score(
    adapter: Adapter,
    zero_shot: Adapter | None,
    test: FeatureSet,
    class_names,
    seen: FeatureSet | None = None,
    *,
    batched: Callable[[Adapter, FeatureSet], Iterable[Batch]] | None = None,
    further: Sequence[Metric] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Evaluate both on the same images.

    Args:
        test: features of the backbone.
        seen: of the same images, by the towers that the adapter changed; by default `test`.
        batched: (adapter, features) -> batches with all that the adapter needs to predict; by default features alone.
        further: metrics of a domain's own.
        progress: called as progress(done, total) while the adapter predicts.

    Raises:
        DataError: the changed towers have no features for some of the images.
    """
    if seen is not None and seen.ids != test.ids:
        raise DataError(
            f"the trained towers give no finite features for {len(test) - len(seen)} of {len(test)} test images; "
            "train with a smaller --lr"
        )
    seen = test if seen is None else seen
    rows = plain_batches(seen) if batched is None else batched(adapter, seen)
    adapted = logits_of(adapter, rows, len(seen), progress)
    before = None if zero_shot is None else batched_logits(zero_shot, test)
    metrics: dict[str, Any] = {
        "zero_shot": None if before is None else metrics_of(before, test, class_names, further),
        "adapted": metrics_of(adapted, test, class_names, further),
        "test_images": len(test),
    }
    if test.labels is None:
        return Scores(None, None if before is None else before.cpu(), adapted.cpu(), metrics)
    if test.multilabel:
        metrics.update(auroc_certainty(_on_cpu(before), _on_cpu(adapted), test.labels.cpu()))
    else:
        metrics.update(_certainty(before, adapted, test.labels))
    return Scores(test.labels.cpu(), None if before is None else before.cpu(), adapted.cpu(), metrics)


def score_on(prepared, adapter: Adapter, test: FeatureSet, class_names, zero_shot: Adapter | None, reporter: Reporter):
    """Scores on rows of the prepared data, with all that the adapter needs to predict.

    Args:
        prepared: the data on the backbone of the fit; where the adapter changed the towers its images are encoded anew.
        test: features by the backbone of the fit.
    """
    moved = on_adapted(prepared, adapter)
    seen = None if moved is prepared else moved.of_ids(test.ids, parts="parts" in adapter.at_predict)
    if adapter.at_predict <= PLAIN:
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches, further=prepared.metrics)
    with reporter.task(f"Predicting with {adapter.name}") as progress:
        options = {"further": prepared.metrics, "progress": progress}
        return score(adapter, zero_shot, test, class_names, seen, batched=moved.batches, **options)


def batched_logits(adapter: Adapter, features: FeatureSet) -> Tensor:
    """(N, C) logits of features, rows at a time."""
    return logits_of(adapter, plain_batches(features), len(features))


def on_adapted(prepared, adapter: Adapter):
    """The data on the backbone that the adapter's logits are of: the same, unless it changed the towers."""
    return prepared if prepared.backbone is None else prepared.on(adapter.adapted(prepared.backbone))


def metrics_of(logits: Tensor, test: FeatureSet, class_names, further: Sequence[Metric] = ()) -> dict[str, float]:
    """Metric name -> value, all between 0 and 1; none without labels."""
    if test.labels is None:
        return {}
    logits, labels = logits.float().cpu(), test.labels.cpu()
    if test.multilabel:
        values = multilabel_metrics(logits, labels, list(class_names))
    else:
        values = classification_metrics(logits, labels, len(class_names))
    for metric in further:
        if metric.multilabel or not test.multilabel:
            values.update(metric.values(logits, labels, class_names))
    return values


def fitted_zero_shot(support: FeatureSet, classifier: TextClassifier) -> Adapter:
    """The zero-shot adapter of a classifier."""
    adapter = build_adapter("zero-shot")
    adapter.fit(support, classifier)
    return adapter


def harmonic_mean(base: float, new: float) -> float:
    """2bn / (b + n), how base-to-new results are summed up."""
    return 0.0 if base + new == 0 else 2 * base * new / (base + new)


def _certainty(before: Tensor | None, adapted: Tensor, labels: Tensor) -> dict[str, Any]:
    right = adapted.argmax(dim=1) == labels.to(adapted.device)
    intervals = {"adapted": list(wilson_interval(int(right.sum()), len(right)))}
    if before is None:
        return {"intervals": intervals, "mcnemar": None}
    right_before = before.argmax(dim=1) == labels.to(before.device)
    intervals["zero_shot"] = list(wilson_interval(int(right_before.sum()), len(right)))
    test = mcnemar(right_before.cpu(), right.cpu())
    return {
        "intervals": intervals,
        "mcnemar": {"gained": test.gained, "lost": test.lost, "p_value": test.p_value},
    }


def _on_cpu(logits: Tensor | None) -> Tensor | None:
    return None if logits is None else logits.float().cpu()


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
    """One row per image: what it is, how sure, the runners-up, and what else is known of the answers."""
    table = Table()
    further = [key for key in ("set", "open", "unlike") if any(row.get(key) is not None for row in rows)]
    titles = {"open": "left open", "unlike": "unlike the fit"}
    for name in ("image", "prediction", "confidence", "next", *(titles.get(key, key) for key in further)):
        table.add_column(name, justify="right" if name == "confidence" else "left", overflow="fold")
    for row in rows:
        if "labels" in row:
            pairs = zip(row["labels"], row["confidences"])
            label, sure = ", ".join(f"{name} {value:.1%}" for name, value in pairs) or "none", ""
            rest = [each for each in row["top"] if each["class"] not in row["labels"]]
        else:
            label, sure = row["label"], f"{row['confidence']:.1%}"
            rest = row["top"][1:]
        runners_up = ", ".join(f"{t['class']} {t['probability']:.1%}" for t in rest)
        table.add_row(row["id"], label, sure, runners_up, *(_in_words(row.get(key)) for key in further))
    return table


def _in_words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "yes" if value else ""


def _number(key: str, value: float | None) -> str:
    """Shares as percentages; any other metric as it is."""
    if value is None:
        return "–"
    return f"{value:.1%}" if key in SHOWN or key.startswith("auroc/") else f"{value:.4g}"


def _interval(bounds: Sequence[float] | None) -> str:
    return f" ({bounds[0]:.0%} to {bounds[1]:.0%})" if bounds else ""


def verdict_of_accuracy(mcnemar: dict[str, Any] | None) -> VerdictSection:
    """The verdict of McNemar's test on the accuracies."""
    if mcnemar is None:
        return NO_ZERO_SHOT
    gained, lost, p = mcnemar["gained"], mcnemar["lost"], mcnemar["p_value"]
    if gained + lost == 0:
        return VerdictSection("open", "No difference", "Zero-shot and the adapted model are right on the same images.")
    counts = (
        f"The adapted model is right on {plural(gained, 'image')} that zero-shot gets wrong, and wrong on {lost} that "
        "zero-shot gets right. "
    )
    test = f"(McNemar’s exact test, {p_words(p)})"
    if p >= SIGNIFICANT:
        text = f"{counts}So small a difference can come from which images are in the test set {test}."
        return VerdictSection("open", "Could be chance", text)
    often = "would hardly ever" if p < 0.001 else "would seldom"
    text = f"{counts}If both were equally good, so uneven a split {often} come up {test}."
    return _beyond_chance(gained > lost, text)


def verdict_of_auroc(gain: Sequence[float] | None, compared: bool) -> VerdictSection | None:
    """The verdict of a bootstrap interval of the gain in AUROC; None where no interval is known."""
    if not compared or gain is None:
        return None if compared else NO_ZERO_SHOT
    low, high = (f"{bound:+.3f}".replace("-", "−") for bound in gain)
    text = f"In 95% of 1000 draws of the test images with replacement, the gain in AUROC lies between {low} and {high}."
    if gain[0] <= 0 <= gain[1]:
        return VerdictSection("open", "Could be chance", text)
    return _beyond_chance(gain[0] > 0, text)


def _beyond_chance(gained: bool, text: str) -> VerdictSection:
    if gained:
        return VerdictSection("good", "The gain is more than chance", text)
    return VerdictSection("bad", "Adaptation made it worse, by more than chance", text)


def warnings_of_accuracy(
    metrics: dict[str, Any], labels: Tensor, class_names: Sequence[str], notes: Sequence[str]
) -> list[str]:
    """What must not be overlooked when reading the accuracies."""
    classes, sentences = len(class_names), small_test_set(len(labels), notes)
    low = (metrics.get("intervals", {}).get("zero_shot") or [1.0])[0]
    if metrics.get("zero_shot") and low <= 1 / classes:
        sentences.append(
            f"Zero-shot cannot be told from guessing among {classes} classes ({1 / classes:.1%}): its prompts do not "
            "tell these classes apart, so what the adapted model knows comes from the labelled images."
        )
    name, share = commonest(labels, class_names)
    accuracy = metrics["adapted"]["accuracy"]
    if accuracy <= share:
        sentences.append(
            f"Always answering “{name}”, the commonest class, would be right on {share:.1%} of the test images; the "
            f"adapted model is right on {accuracy:.1%}. Look at the balanced accuracy."
        )
    return sentences


def warnings_of_auroc(metrics: dict[str, Any], images: int, notes: Sequence[str]) -> list[str]:
    """What must not be overlooked when reading AUROCs of several labels."""
    sentences = small_test_set(images, notes)
    interval = metrics.get("intervals", {}).get("zero_shot")
    if interval and interval[0] <= 0.5:
        sentences.append(
            "Zero-shot cannot be told from guessing (an AUROC of 0.5): what the adapted model knows comes from the "
            "labelled images."
        )
    blank = [key.split("/", 1)[1] for key, v in metrics["adapted"].items() if key.startswith("auroc/") and v is None]
    if blank:
        sentences.append(f"Without both values in the test set, so without a score: {', '.join(blank)}.")
    return sentences


def commonest(labels: Tensor, class_names: Sequence[str]) -> tuple[str, float]:
    """The commonest class of the test set and its share."""
    counts = torch.bincount(labels.long(), minlength=len(class_names))
    return class_names[int(counts.argmax())], float(counts.max()) / max(1, len(labels))
