"""Accuracy of methods that read all test images together, by how many of the classes occur among them.

    python benchmarks/classes_present.py          # prints the table
    python benchmarks/classes_present.py page     # writes it into docs/measurements/adapters.md

As in the StatA paper (arXiv 2501.03729), for each batch a number of classes is drawn from a range, then that many
classes, then 64 of the images of these classes. Accuracy is the mean over 100 batches, in percent; "warned" is the
share of batches in which the fit warned that some of the classes seem to be absent. The features are those of WHU-RS19
in the folder that VLADAPT_DATA names: 1,005 scenes of 19 classes, with the average of the prompts as text. Labels are
used for scoring only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from adapter_page import between
from torch import Tensor
from usage import print_help

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.features.files import load_features

BATCHES, IMAGES = 100, 64
RANGES = {"1 to 4": (1, 4), "2 to 10": (2, 10), "5 to 25": (5, 25), "all 19": (19, 19)}
FEATURES = ("CLIP_RN50", "CLIP_ViTB32", "CLIP_ViTL14", "RemoteCLIP_ViTB32")
METHODS = {"transclip": {"mode": "zero-shot"}, "stat-a": {}}
PAGE = Path(__file__).parent.parent / "docs" / "measurements" / "adapters.md"
BEGIN, END = "<!-- table: written by benchmarks/classes_present.py page -->", "<!-- end of that table -->"


def main() -> None:
    folder = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / "features" / "whurs19_clip"
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}; name that of the public data in VLADAPT_DATA")
    table = "\n".join(rows(folder))
    if sys.argv[1:] == ["page"]:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), BEGIN, END, table), encoding="utf-8")
    else:
        print(table)


@dataclass(frozen=True)
class Measured:
    """Means over batches of one set of features and range of classes, all in percent.

    Attributes:
        features: their name.
        present: the range in words.
        zero_shot, transclip, stat_a: accuracy.
        below: batches in which `transclip` is below zero-shot.
        warned: batches in which the fit warned.
    """

    features: str
    present: str
    zero_shot: float
    transclip: float
    stat_a: float
    below: float
    warned: float


def rows(folder: Path) -> Iterator[str]:
    """Markdown, one row per set of features and range of classes."""
    yield "| features | classes present | zero-shot | `transclip` | `stat-a` | `transclip` below zero-shot | warned |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for each in measured(folder):
        means = " | ".join(f"{value:.1f}" for value in (each.zero_shot, each.transclip, each.stat_a))
        yield f"| {each.features} | {each.present} | {means} | {each.below:.0f} % | {each.warned:.0f} % |"


def measured(folder: Path) -> Iterator[Measured]:
    """Each set of features with each range of classes, then with all its images at once."""
    for name in FEATURES:
        file = load_features(folder / f"whurs19_{name}.npz")
        for words, bounds in [*RANGES.items(), ("all 19, all images", None)]:
            drawn = [file.features] if bounds is None else batches(file.features, bounds)
            scores = torch.tensor([scored(batch, file.classifier) for batch in drawn], dtype=torch.float64)  # (B, 4)
            below = 100 * (scores[:, 1] < scores[:, 0]).double().mean()
            zero_shot, transclip, stat_a, warned = scores.mean(dim=0).tolist()
            means = (zero_shot, transclip, stat_a, float(below), 100 * warned)
            yield Measured(name.replace("_", " "), words, *means)


def batches(data: FeatureSet, bounds: tuple[int, int]) -> Iterator[FeatureSet]:
    """Batches of `IMAGES` images, or all where the drawn classes have fewer, of as many classes as the bounds say."""
    generator, count = torch.Generator().manual_seed(0), data.num_classes
    for _ in range(BATCHES):
        some = min(count, int(torch.randint(bounds[0], bounds[1] + 1, (), generator=generator)))
        present = torch.randperm(count, generator=generator)[:some]
        pool = torch.isin(data.labels, present).nonzero().flatten()
        yield data.select(pool[torch.randperm(len(pool), generator=generator)[:IMAGES]])


def scored(batch: FeatureSet, text: TextClassifier) -> list[float]:
    """Accuracies of zero-shot and of the methods, in percent, and whether the first of these warned."""
    images, warned = batch.without_labels(), []
    accuracies = [accuracy(text.logits(images.unit), batch.labels)]
    for name, options in METHODS.items():
        adapter = build_adapter(name, **options)
        report = adapter.fit(None, text, unlabeled=images)
        warned.append(any("seem to be absent" in note for note in report.notes))
        accuracies.append(accuracy(adapter.logits(images), batch.labels))
    return [*accuracies, float(warned[0])]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * float((logits.argmax(dim=1) == labels).double().mean())


if __name__ == "__main__":
    print_help(__doc__)
    torch.set_num_threads(1)
    main()
