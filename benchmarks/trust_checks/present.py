"""Methods that read all test images together, by how many of the classes occur among these: the short form of the
table in docs/measurements/adapters.md, means over all sets of features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from classes_present import Measured, measured

from .sets import present

VALUES = ("zero_shot", "transclip", "stat_a")


def lines(data: Path) -> Iterator[str]:
    """A row per range of classes."""
    folder = present(data, "features/whurs19_clip")
    if folder is not None:
        yield from short_form(list(measured(folder)))


def short_form(found: list[Measured]) -> Iterator[str]:
    """Markdown: accuracies, and how often the fit warned."""
    yield "| classes present | zero-shot | `transclip` | `stat-a` | warned |"
    yield "|---|---:|---:|---:|---:|"
    for words in dict.fromkeys(each.present for each in found):
        some = [each for each in found if each.present == words]
        means = [f"{fmean(getattr(each, value) for each in some):.1f}" for value in VALUES]
        yield f"| {words} | {' | '.join(means)} | {fmean(each.warned for each in some):.0f} % |"
