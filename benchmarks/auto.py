"""Does `auto` keep its word, that it is no worse than zero-shot? 200 fits on real CLIP features, by seeds and shots.

    python benchmarks/auto.py               # prints the table; four minutes on an idle core
    python benchmarks/auto.py --seeds 4     # fewer draws

The sets are WHU-RS19 (CLIP ViT-B/32) and 209 photographs of COCO in 8 classes (CLIP ViT-B/16), in the folder that
VLADAPT_DATA names. Each seed draws test images (30 % of each class), shots, and as many val images, four per class at
most. A fit is worse if a sign test of the test images that only one of the two has right says so (McNemar, one-sided
2.5 %). The exit code is 1 if more than 5 % of the fits are worse, or the mean difference is below 0.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from unlabelled_sets import DATA

from vladapt import FeatureSet, build_adapter
from vladapt.core.features.files import FeatureFile, load_features
from vladapt.core.metrics.significance import McNemar, mcnemar

FILES = {
    "WHU-RS19": DATA / "features" / "whurs19_clip" / "whurs19_CLIP_ViTB32.npz",
    "COCO, 8 classes": DATA / "features" / "coco500_clip" / "coco8_vitb16.npz",
}
SHOTS = (1, 2, 3, 4, 8)
TEST, MOST_VAL = 0.3, 4
MOST_WORSE, LEVEL = 0.05, 0.025


@dataclass(frozen=True)
class Measured:
    """One fit: the method that was taken, the gain over zero-shot in points, and the test of it."""

    method: str
    gain: float
    test: McNemar

    @property
    def worse(self) -> bool:
        return self.test.lost > self.test.gained and self.test.p_value / 2 <= LEVEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="draws of each set and number of shots")
    seeds, every = parser.parse_args().seeds, []
    print("| set | shots | fits | mean gain, points | smallest | worse | taken |\n|---|---:|---:|---:|---:|---:|---|")
    for name, path in FILES.items():
        file = load_features(path)
        for shots in SHOTS:
            fits = [measured(file, *drawn(file.features, shots, seed), seed) for seed in range(seeds)]
            every += fits
            print(f"| {name} | {shots} | {row(fits)} |", flush=True)
    print(f"| both | all | {row(every)} |")
    if sum(fit.worse for fit in every) > MOST_WORSE * len(every) or np.mean([fit.gain for fit in every]) < 0:
        raise SystemExit("auto does not keep its word")


def drawn(features: FeatureSet, shots: int, seed: int) -> Iterator[FeatureSet]:
    """Support, val and test."""
    rng, parts = np.random.default_rng(seed), ([], [], [])
    labels = features.labels.numpy()
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        test = max(2, round(TEST * len(rows)))
        val = test + min(shots, len(rows) - test - 1)
        for part, some in zip(parts, (rows[test:val], rows[val : val + min(shots, MOST_VAL)], rows[:test])):
            part += some.tolist()
    return (features.select(torch.tensor(sorted(part))) for part in parts)


def measured(file: FeatureFile, support: FeatureSet, val: FeatureSet, test: FeatureSet, seed: int) -> Measured:
    adapter = build_adapter("auto")
    report = adapter.fit(support, file.classifier, val=val, seed=seed)
    before, after = (
        logits.argmax(dim=1) == test.labels for logits in (file.classifier.logits(test.unit), adapter.logits(test))
    )
    gain = 100 * float(after.double().mean() - before.double().mean())
    return Measured(report.chosen["method"], gain, mcnemar(before, after))


def row(fits: list[Measured]) -> str:
    gains, worse = [fit.gain for fit in fits], sum(fit.worse for fit in fits)
    taken = ", ".join(f"{name} {count}" for name, count in Counter(fit.method for fit in fits).most_common())
    return f"{len(fits)} | {np.mean(gains):+.2f} | {min(gains):+.1f} | {worse} | {taken}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
