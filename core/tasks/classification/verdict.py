"""What the scores of a classifier mean, in words: the verdict against the strongest baseline, and what to beware of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...metrics.significance import SIGNIFICANT, p_words, wilson_interval
from ...runs.measures import MEASURES, deciding_of, points
from ...runs.run_sections import few_groups, small_test_set
from ...runs.sections import VerdictSection, plural
from .judgement import GUESSING, LARGEST, LINEAR, ZERO_SHOT, above_guessing

FEW_OF_CLASS = 30
LISTED = 6


def baseline_name(key: str, baseline: Mapping[str, Any]) -> str:
    """How a baseline is called within a sentence."""
    names = {ZERO_SHOT: "zero-shot", LINEAR: "a linear probe on the same images", GUESSING: "guessing"}
    return names.get(key) or f"always answering “{baseline['class']}”"


def column_name(key: str, baseline: Mapping[str, Any]) -> str:
    """How a baseline is called above a column."""
    names = {ZERO_SHOT: "Zero-shot", LINEAR: "Linear probe", GUESSING: "Guessing"}
    return names.get(key) or f"Always “{baseline['class']}”"


def verdict_section(metrics: Mapping[str, Any], *, paragraphs: bool = True) -> VerdictSection | None:
    """Whether the adapted model is better than the strongest baseline, beyond chance; None where nothing is known.

    Args:
        metrics: as in metrics.json.
        paragraphs: with a line for each further baseline.
    """
    baselines, strongest = metrics.get("baselines") or {}, metrics.get("strongest")
    if not strongest:
        return None
    best, deciding = baselines[strongest], deciding_of(metrics)
    name = baseline_name(strongest, best)
    lines = [_against(metrics, strongest), *([_why(metrics)] if _why(metrics) else [])]
    lines += [_against(metrics, key) for key in baselines if key != strongest and deciding in baselines[key]]
    text = "\n".join(lines) if paragraphs else lines[0]
    better, sure = best["difference"] > 0, best["p_value"] < SIGNIFICANT
    if above_guessing(metrics) is False:
        floor = next(key for key in (LARGEST, GUESSING) if key in baselines)
        worse = baselines[floor]["difference"] < 0 and baselines[floor]["p_value"] < SIGNIFICANT
        title = f"Not shown to be better than {baseline_name(floor, baselines[floor])}"
        text = text if paragraphs or floor == strongest else f"{text} {_against(metrics, floor)}"
        return VerdictSection("bad" if worse else "open", title, text)
    if best["difference"] == 0 and best["p_value"] == 1:
        return VerdictSection("open", "No difference", text)
    if not sure:
        zero_shot = baselines.get(ZERO_SHOT)
        gained = zero_shot and zero_shot["p_value"] < SIGNIFICANT and zero_shot["difference"] > 0
        title = f"Better than zero-shot, but not shown to be better than {name}" if gained else "Could be chance"
        return VerdictSection("open", title, text)
    if better:
        return VerdictSection("good", "The gain is more than chance", text)
    if strongest == ZERO_SHOT:
        return VerdictSection("bad", "Adaptation made it worse, by more than chance", text)
    return VerdictSection("bad", f"{name[0].upper()}{name[1:]} does better, by more than chance", text)


def verdict(metrics: Mapping[str, Any]) -> str:
    """The same for a terminal: a sentence or two."""
    section = verdict_section(metrics, paragraphs=False)
    if section is None:
        return ""
    reason = _why(metrics)
    return f"{section.title}. {section.text}{f' {reason}' if reason else ''}"


def _why(metrics: Mapping[str, Any]) -> str:
    """Why this metric decides, where it is not simply accuracy."""
    if metrics.get("decided_by_protocol"):
        return f"{MEASURES[metrics['deciding']].name} decides, as in the protocol."
    if metrics.get("deciding") != "balanced_accuracy":
        return ""
    fewest, most = metrics["class_range"]
    return f"Balanced accuracy decides, because the classes of the test set are unequal ({fewest} to {most} images)."


def _against(metrics: Mapping[str, Any], key: str) -> str:
    """Both scores, their difference, its interval and its test."""
    baseline, deciding = metrics["baselines"][key], deciding_of(metrics)
    measure = MEASURES[deciding]
    called, score = baseline_name(key, baseline), measure.text(baseline[deciding])
    if key == metrics.get("strongest"):
        name = "macro AUROC" if deciding == "auroc" else measure.name.lower()
        reached = f"{'an' if name[0] in 'aeiou' else 'a'} {name} of {measure.text(metrics['adapted'][deciding])}"
        text = f"The adapted model has {reached}; the strongest baseline, {called}, has {score}"
    else:
        text = f"Against {called} ({score})"
    bounds = [points(measure, bound, unit=False) for bound in baseline.get("interval") or ()]
    between = f"95% interval {' to '.join(bounds)}" if bounds else ""
    tested = "; ".join(filter(None, (between, _test(metrics, key))))
    return f"{text}: {points(measure, baseline['difference'])} ({tested})."


def _test(metrics: Mapping[str, Any], key: str) -> str:
    p, groups = metrics["baselines"][key]["p_value"], metrics.get("test_groups")
    deciding, by_group = deciding_of(metrics), f" of {groups} groups" if groups else ""
    if deciding == "auroc":
        return f"bootstrap{by_group or ' of test images'}, {p_words(p)}"
    if deciding == "accuracy" and not groups:
        return f"McNemar’s exact test, {p_words(p)}"
    return f"permutation test{by_group}, {p_words(p)}"


def warnings_of(
    metrics: Mapping[str, Any], labels: Tensor, class_names: Sequence[str], notes: Sequence[str]
) -> list[str]:
    """What must not be overlooked when reading the scores."""
    sentences = [*small_test_set(len(labels), notes), *_few_of_a_class(labels, class_names), *few_groups(metrics)]
    if labels.ndim == 2:
        return sentences + _of_several_labels(metrics)
    classes = len(class_names)
    low = (metrics.get("intervals", {}).get(ZERO_SHOT) or [1.0])[0]
    if metrics.get(ZERO_SHOT) and low <= 1 / classes:
        sentences.append(
            f"Zero-shot cannot be told from guessing among {classes} classes ({1 / classes:.1%}): its prompts do not "
            "tell these classes apart, so what the adapted model knows comes from the labelled images."
        )
    name, share = commonest(labels, class_names)
    accuracy = metrics["adapted"]["accuracy"]
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


def _of_several_labels(metrics: Mapping[str, Any]) -> list[str]:
    sentences = []
    interval = metrics.get("intervals", {}).get(ZERO_SHOT)
    if interval and interval[0] <= 0.5:
        sentences.append(
            "Zero-shot cannot be told from guessing (an AUROC of 0.5): what the adapted model knows comes from the "
            "labelled images."
        )
    blank = [key.split("/", 1)[1] for key, v in metrics["adapted"].items() if key.startswith("auroc/") and v is None]
    if blank:
        sentences.append(f"Without a score, because the test set lacks one of the two values: {', '.join(blank)}.")
    return sentences


def commonest(labels: Tensor, class_names: Sequence[str]) -> tuple[str, float]:
    """The commonest class of the test set and its share."""
    counts = torch.bincount(labels.long(), minlength=len(class_names))
    return class_names[int(counts.argmax())], float(counts.max()) / max(1, len(labels))
