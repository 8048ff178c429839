"""What the scores of a classification mean, in words a reader without statistics can use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...metrics.significance import SIGNIFICANT, p_words
from ...runs.run_sections import small_test_set
from ...runs.sections import VerdictSection, plural

NO_ZERO_SHOT = VerdictSection("open", "Nothing to compare with", "There is no zero-shot score for this task.")


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
