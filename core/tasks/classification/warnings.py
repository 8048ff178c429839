"""What must not be overlooked when reading the scores of a classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...judgements.baselines import ZERO_SHOT, Comparison
from ...metrics.significance import wilson_interval
from ...runs.run_sections import few_groups, small_test_set
from ...runs.sections import plural

FEW_OF_CLASS = 30
LISTED = 6


def warnings_of(found: Comparison, labels: Tensor, class_names: Sequence[str], notes: Sequence[str]) -> list[str]:
    """What must not be overlooked when reading the scores."""
    sentences = [*small_test_set(len(labels), notes), *_few_of_a_class(labels, class_names)]
    sentences += few_groups(found.test_groups, found.test_images)
    if labels.ndim == 2:
        return sentences + _of_several_labels(found)
    classes = len(class_names)
    low = (found.intervals.get(ZERO_SHOT) or [1.0])[0]
    if found.zero_shot and low <= 1 / classes:
        sentences.append(
            f"Zero-shot cannot be told from guessing among {classes} classes ({1 / classes:.1%}): its prompts do not "
            "tell these classes apart, so what the adapted model knows comes from the labelled images."
        )
    name, share = commonest(labels, class_names)
    accuracy = found.adapted["accuracy"]
    if accuracy <= share:
        sentences.append(
            f"Always answering “{name}”, the most common class, would be right on {share:.1%} of the test images; the "
            f"adapted model is right on {accuracy:.1%}. Look at the balanced accuracy."
        )
    return sentences


def _few_of_a_class(labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Classes of which the test set has so few images that nothing can be said of them."""
    if labels.ndim == 2:
        counts = ((labels == 1).sum(dim=0)).tolist()
    else:
        counts = torch.bincount(labels.long(), minlength=len(class_names)).tolist()
    few = sorted((count, name) for count, name in zip(counts, class_names) if 0 < count < FEW_OF_CLASS)
    if not few:
        return []
    listed = ", ".join(f"{name} ({count})" for count, name in few[:LISTED])
    more = f" and {len(few) - LISTED} more" if len(few) > LISTED else ""
    low, high = wilson_interval(few[0][0], few[0][0])
    return [
        f"Fewer than {FEW_OF_CLASS} test images: {listed}{more}. With {plural(few[0][0], 'image')}, even if all are "
        f"right, the true recall may lie anywhere between {low:.0%} and {high:.0%}."
    ]


def _of_several_labels(found: Comparison) -> list[str]:
    sentences = []
    interval = found.intervals.get(ZERO_SHOT)
    if interval and interval[0] <= 0.5:
        sentences.append(
            "Zero-shot cannot be told from guessing (an AUROC of 0.5): what the adapted model knows comes from the "
            "labelled images."
        )
    blank = [key.split("/", 1)[1] for key, v in found.adapted.items() if key.startswith("auroc/") and v is None]
    if blank:
        sentences.append(f"Without a score, because the test set lacks one of the two values: {', '.join(blank)}.")
    return sentences


def commonest(labels: Tensor, class_names: Sequence[str]) -> tuple[str, float]:
    """The commonest class of the test set and its share."""
    counts = torch.bincount(labels.long(), minlength=len(class_names))
    return class_names[int(counts.argmax())], float(counts.max()) / max(1, len(labels))
