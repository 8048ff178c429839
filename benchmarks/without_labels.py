"""One table of the methods that need no labels, and `auto`, by how many classes occur and on streams.

    python benchmarks/without_labels.py                          # prints the tables; some hours with 1,000 batches
    python benchmarks/without_labels.py --batches 100 --features CLIP_ViTB32 --streams 5

Tasks are those of the StatA paper (arXiv 2501.03729; `--protocol transductive`): batches of 64 images of 1 to 4, 2 to
10 and 5 to 25 classes; streams of 128 images at a time in which images of a class come together, the more so the higher
their correlation (gamma 0.1, 0.01, 0.001, and one class after the other); and all images at once. The features are
those of WHU-RS19 in the folder that VLADAPT_DATA names: 1,005 scenes of 19 classes. Labels are used for scoring only.

Accuracy is the mean over batches in percent; "worse" is the share of batches in which a method is worse than zero-shot
by McNemar's test (p < .05). For all images at once there are also the calibration error, the AUROC with which
confidence separates images of five classes whose names are left out from the others, and the spread of accuracy over
five orders.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from unlabelled_sets import CLIP_FEATURES, UnlabelledSet, clip_sets

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.adapters.selection._without_labels import CANDIDATES, SETTINGS, UnlabelledTrial
from vladapt.core.confidence.calibration import calibration_error
from vladapt.core.data.test_batches import TASKS, FewClasses, TestStream, Whole
from vladapt.core.metrics.classification import macro_auroc
from vladapt.core.metrics.significance import mcnemar

MOST_IMAGES = 64  # of a batch of few classes; those of 1,000 are nearly all images here
ORDERS, LEFT_OUT = 5, 5
ROWS = ("zero-shot", *CANDIDATES, "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--batches", type=int, default=1000, help="batches of each range of classes")
    parser.add_argument("--streams", type=int, default=100, help="streams of each gamma")
    parser.add_argument("--features", nargs="+", default=list(CLIP_FEATURES), choices=CLIP_FEATURES)
    given = parser.parse_args()
    for data in clip_sets():
        if data.backbone.replace(" ", "_") in given.features:
            print(f"\n**{data.backbone}**\n\n" + "\n".join(table(data, given.batches, given.streams)), flush=True)


def table(data: UnlabelledSet, batches: int, streams: int) -> Iterator[str]:
    """Markdown: a row per method."""
    labels, columns = data.features.labels.numpy(), {}
    for task in sorted(TASKS, key=lambda each: isinstance(each, Whole)):
        if not isinstance(task, FewClasses) or task.size <= MOST_IMAGES:
            drawn = task.drawn(labels, streams if isinstance(task, TestStream) else batches, seed=1)
            columns[task.name] = of_rows(data, (torch.from_numpy(rows) for several in drawn for rows in several))
    further = {name: all_at_once(data, name) for name in ROWS}
    yield "| method | " + " | ".join(columns) + " | calibration error | unknown classes, AUROC | spread over orders |"
    yield "|---|" + "---:|" * (len(columns) + 3)
    for name in ROWS:
        cells = [cell(right, name) for right in columns.values()]
        yield f"| `{name}` | " + " | ".join([*cells, *further[name]]) + " |"


def of_rows(data: UnlabelledSet, rows: Iterable[Tensor]) -> dict[str, list[Tensor]]:
    """Method -> per batch which images are right."""
    right: dict[str, list[Tensor]] = {name: [] for name in ROWS}
    for each in rows:
        batch = data.features.select(each)
        for name, logits in answers(data.text, batch.without_labels()).items():
            right[name].append(logits.argmax(dim=1) == batch.labels)
    return right


def answers(text: TextClassifier, images: FeatureSet, seed: int = 0) -> dict[str, Tensor]:
    """(N, C) logits of each method; `auto` takes one of the others, as the adapter does."""
    trial = UnlabelledTrial(images, text, seed, lambda name: build_adapter(name, **SETTINGS.get(name, {})))
    judged = list(trial.judged(CANDIDATES))
    found = {"zero-shot": text.logits(images.unit)}
    found |= {each.adapter.name: each.adapter.logits(images) for each in judged}
    taken = trial.taken(judged)
    return {**found, "auto": found["zero-shot" if taken is None else taken.adapter.name]}


def cell(right: dict[str, list[Tensor]], name: str) -> str:
    """Mean accuracy, and the share of batches that are worse."""
    accuracy = 100 * sum(float(each.double().mean()) for each in right[name]) / len(right[name])
    if name == "zero-shot":
        return f"{accuracy:.1f}"
    tests = [mcnemar(before, after) for before, after in zip(right["zero-shot"], right[name])]
    worse = sum(test.p_value < 0.05 and test.lost > test.gained for test in tests) / len(tests)
    return f"{accuracy:.1f} ({100 * worse:.0f} % worse)"


def all_at_once(data: UnlabelledSet, name: str) -> list[str]:
    """Calibration error, AUROC of unknown classes, and spread over orders, of all images at once."""
    images, labels = data.features.without_labels(), data.features.labels
    orders = [torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)) for seed in range(ORDERS)]
    runs = [(labels[rows], answers_of(data.text, images.select(rows), name, seed)) for seed, rows in enumerate(orders)]
    accuracies = [100 * float((logits.argmax(dim=1) == told).double().mean()) for told, logits in runs]
    known = len(data.text) - LEFT_OUT
    sure = answers_of(data.text.select(torch.arange(known)), images, name, 0).softmax(dim=1).amax(dim=1)
    auroc = float(macro_auroc(sure[None, None], (labels < known).double()[None]))
    error = calibration_error(runs[0][1], runs[0][0])
    return [f"{error:.3f}", f"{auroc:.3f}", f"{max(accuracies) - min(accuracies):.1f}"]


def answers_of(text: TextClassifier, images: FeatureSet, name: str, seed: int) -> Tensor:
    """(N, C) logits of one method."""
    adapter = build_adapter(name, **SETTINGS.get(name, {}))
    adapter.fit(None, text, unlabeled=images, seed=seed)
    return adapter.logits(images)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
