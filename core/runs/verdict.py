"""What the scores mean, in words a reader without statistics can use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIGNIFICANT = 0.05
SMALL_TEST_SET = 100


@dataclass(frozen=True)
class Verdict:
    """Whether the gain is more than chance. `tone` is "good", "bad" or "open"."""

    tone: str
    title: str
    text: str


def verdict_of_accuracy(mcnemar: dict[str, Any] | None) -> Verdict:
    """The verdict of McNemar's test on the accuracies."""
    if mcnemar is None:
        return Verdict("open", "Nothing to compare with", "There is no zero-shot score for this task.")
    gained, lost, p = mcnemar["gained"], mcnemar["lost"], mcnemar["p_value"]
    counts = (
        f"The adapted model is right on {_images(gained)} that zero-shot gets wrong, and wrong on {lost} that "
        "zero-shot gets right. "
    )
    if gained + lost == 0:
        return Verdict("open", "No difference", "Zero-shot and the adapted model are right on the same images.")
    test = f"(McNemar's exact test, {p_words(p)})"
    if p >= SIGNIFICANT:
        text = f"{counts}So small a difference can come from which images are in the test set {test}."
        return Verdict("open", "Could be chance", text)
    often = "would hardly ever" if p < 0.001 else "would seldom"
    text = f"{counts}If both were equally good, so uneven a split {often} come up {test}."
    if gained > lost:
        return Verdict("good", "The gain is more than chance", text)
    return Verdict("bad", "Adaptation made it worse, by more than chance", text)


def verdict_of_auroc(gain: list[float] | None, compared: bool) -> Verdict | None:
    """The verdict of a bootstrap interval of the gain in AUROC; None where no interval is known."""
    if not compared:
        return Verdict("open", "Nothing to compare with", "There is no zero-shot score for this task.")
    if gain is None:
        return None
    low, high = gain
    text = (
        f"Drawing the test images again and again, the gain in AUROC lies between {_signed(low)} and {_signed(high)} "
        "(95% of 1000 draws)."
    )
    if low > 0:
        return Verdict("good", "The gain is more than chance", text)
    if high < 0:
        return Verdict("bad", "Adaptation made it worse, by more than chance", text)
    return Verdict("open", "Could be chance", text)


def warnings_of_accuracy(metrics: dict[str, Any], labels: Tensor, class_names, notes: list[str]) -> list[str]:
    """What must not be overlooked when reading the accuracies."""
    classes, total = len(class_names), len(labels)
    found = small_test_set(total, notes)
    low = (metrics.get("intervals", {}).get("zero_shot") or [1.0])[0]
    if metrics.get("zero_shot") and low <= 1 / classes:
        found.append(
            f"Zero-shot cannot be told from guessing among {classes} classes ({100 / classes:.1f}%): its prompts do "
            "not tell these classes apart, so what the adapted model knows comes from the labelled images."
        )
    name, share = commonest(labels, class_names)
    accuracy = metrics["adapted"]["accuracy"]
    if accuracy <= share:
        found.append(
            f"Always answering “{name}”, the commonest class, would be right on {100 * share:.1f}% of the test images; "
            f"the adapted model is right on {100 * accuracy:.1f}%. Look at the balanced accuracy."
        )
    return found


def warnings_of_auroc(metrics: dict[str, Any], total: int, notes: list[str]) -> list[str]:
    """What must not be overlooked when reading AUROCs of several labels."""
    found = small_test_set(total, notes)
    interval = metrics.get("intervals", {}).get("zero_shot")
    if interval and interval[0] <= 0.5:
        found.append(
            "Zero-shot cannot be told from guessing (an AUROC of 0.5): what the adapted model knows comes from the "
            "labelled images."
        )
    blank = [key.split("/", 1)[1] for key, v in metrics["adapted"].items() if key.startswith("auroc/") and v is None]
    if blank:
        found.append(f"Without both values in the test set, so without a score: {', '.join(blank)}.")
    return found


def small_test_set(total: int, notes: list[str]) -> list[str]:
    """The sentence on a small test set, unless the notes say it already."""
    if total >= SMALL_TEST_SET or any(f"fewer than {SMALL_TEST_SET}" in note for note in notes):
        return []
    size = f"The test set has {_images(total)}, fewer than {SMALL_TEST_SET}"
    return [f"{size}: read the intervals, not the single numbers."]


def commonest(labels: Tensor, class_names) -> tuple[str, float]:
    """The commonest class of the test set and its share."""
    counts = torch.bincount(labels.long(), minlength=len(class_names))
    return class_names[int(counts.argmax())], float(counts.max()) / max(1, len(labels))


def p_words(p: float) -> str:
    """p = 0.032, or p < 0.0001."""
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def _images(count: int) -> str:
    return f"{count} image" if count == 1 else f"{count} images"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
