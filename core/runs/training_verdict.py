"""What a training on pairs did to retrieval and to general ability, in words a reader without statistics can use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from .verdict import SIGNIFICANT, Verdict, p_words, small_test_set

WORDS = {TEXT_TO_IMAGE: "text to image", IMAGE_TO_TEXT: "image to text"}
DRAWN = "drawings"


def verdict_of_retrieval(metrics: Mapping[str, Any], said: str) -> Verdict:
    """Whether the change of R@1 is more than chance, of both directions together.

    Args:
        metrics: of `before_and_after`.
        said: sentences on each direction, or "".
    """
    if not metrics.get("adapted"):
        return Verdict("open", "Not measured", "The data has no test pairs, so nothing says how well it retrieves.")
    tests = metrics.get("mcnemar")
    if not tests:
        return Verdict("open", "Nothing to compare with", "Retrieval was not measured before the training.")
    sure = {side: test for side, test in tests.items() if test["p_value"] < SIGNIFICANT}
    better = [side for side, test in sure.items() if test["gained"] > test["lost"]]
    worse = [side for side in sure if side not in better]
    return Verdict(*_judged(better, worse, len(tests)), said)


def verdict_of_generic(generic: Mapping[str, Any]) -> Verdict:
    """Whether the model forgot, by what `generic_metrics` holds."""
    before, after, p = generic["before"], generic["after"], generic.get("p_value")
    of = DRAWN if generic["name"] == DRAWN else f"images of {generic['name']}"
    text = (
        f"Of {generic['images']} {of}, each to be named by one of {generic['words']} words, {_share(before)} were "
        f"named rightly before and {_share(after)} after."
    )
    if p is not None and generic["gained"] + generic["lost"]:
        text += f" {generic['lost']} were lost and {generic['gained']} gained (McNemar’s exact test, {p_words(p)})."
    if note := generic.get("note"):
        text += f" {note[0].upper()}{note[1:]}."
    if p is not None and p < SIGNIFICANT:
        if generic["lost"] > generic["gained"]:
            return Verdict("bad", "It forgot some of what it knew, by more than chance", text)
        return Verdict("good", "It names generic images better than before", text)
    if note or p is None:
        return Verdict("open", "What it forgot cannot be told from this", text)
    return Verdict("open", "A loss that could be chance" if generic["lost"] > generic["gained"] else "No loss", text)


def warnings_of_training(
    metrics: Mapping[str, Any], history: Sequence[Mapping[str, float]], notes: list[str]
) -> list[str]:
    """What must not be overlooked when reading the scores of retrieval."""
    found = []
    if metrics.get("adapted"):
        images, intervals = metrics["test_images"], metrics.get("intervals") or {}
        found += small_test_set(images, notes)
        guessed = [side for side in ("zero_shot", "adapted") if _is_guessing(intervals.get(side), images)]
        when = {("zero_shot",): "Before the training", ("adapted",): "After the training"}
        if guessed:
            found.append(
                f"{when.get(tuple(guessed), 'Before and after the training')}, finding the right one first cannot be "
                f"told from guessing among {images} images, in either direction."
            )
    losses = [row["loss"] for row in history if row.get("loss") is not None]
    if len(losses) > 1 and not losses[-1] < losses[0]:
        found.append(
            f"The loss did not fall: {losses[0]:.4g} in the first epoch, {losses[-1]:.4g} in the last. Try another "
            "learning rate or more epochs."
        )
    return found


def _judged(better: Sequence[str], worse: Sequence[str], directions: int) -> tuple[str, str]:
    """Tone and title."""
    if better and worse:
        return "bad", f"Better at {WORDS[better[0]]}, worse at {WORDS[worse[0]]}, both by more than chance"
    if better:
        where = "" if len(better) == directions else f", at {WORDS[better[0]]}"
        return "good", f"The gain is more than chance{where}"
    if worse:
        where = "" if len(worse) == directions else f" at {WORDS[worse[0]]}"
        return "bad", f"The training made it worse{where}, by more than chance"
    return "open", "Could be chance"


def _is_guessing(intervals: Mapping[str, Sequence[float]] | None, images: int) -> bool:
    """Whether the intervals of R@1 hold the share that guessing gets, in both directions."""
    return bool(intervals) and all(bounds[0] <= 1 / images for bounds in intervals.values())


def _share(numbers: Mapping[str, Any]) -> str:
    share = f"{100 * numbers['top1']:.1f}%"
    if not numbers.get("interval"):
        return share
    low, high = numbers["interval"]
    return f"{share} ({100 * low:.1f} to {100 * high:.1f})"
