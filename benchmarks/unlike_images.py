"""How well each score tells images of other things, on real features of CLIP.

    python benchmarks/unlike_images.py         # prints the table; a few seconds

The known classes are the first ten of WHU-RS19's nineteen kinds of aerial images, the others are the other things: near
ones, since all are seen by the same satellites. Of each known class 16 images are the support that distances are to;
the others are test images. Class scores are those of the class texts alone: nothing is fitted, nothing is chosen.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from usage import print_help

from vladapt.core.confidence.selective import distances
from vladapt.core.confidence.unlike_scores import Separation, class_scores, separations
from vladapt.core.features.files import load_features

TOWERS = {"CLIP RN50": "CLIP_RN50", "CLIP ViT-B/32": "CLIP_ViTB32", "CLIP ViT-L/14": "CLIP_ViTL14"}
KNOWN, SHOTS, SEED = 10, 16, 1
SCORES = {
    "MCM, T = 1": "mcm/t1",
    "MCM, own scale": "mcm/own",
    "energy, T = 1": "energy/t1",
    "energy, own scale": "energy/own",
    "largest logit": "max_logit/t1",
    "distance": "distance",
}


def main() -> None:
    folder = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / "features" / "whurs19_clip"
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}; name that of the public data in VLADAPT_DATA")
    made = {title: compared(folder / f"whurs19_{name}.npz") for title, name in TOWERS.items()}
    print(f"| score | {' | '.join(made)} |")
    print(f"|---|{'---:|' * len(made)}")
    for title, name in SCORES.items():
        print(f"| {title} | {' | '.join(cell(of[name]) for of in made.values())} |")


def compared(path: Path) -> dict[str, Separation]:
    file = load_features(path)
    features, labels, texts = file.features.unit, file.features.labels, file.classifier.weights[:KNOWN]
    known = labels < KNOWN
    rows = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
    support = torch.cat([rows[labels[rows] == c][:SHOTS] for c in range(KNOWN)])
    known[support] = False
    parts = {}
    for kind, chosen in (("test", known), ("others", labels >= KNOWN)):
        cosines = features[chosen] @ texts.T
        parts[kind] = {
            f"{score}/{scale}": values
            for scale, temperature in (("t1", 1.0), ("own", 1 / file.classifier.logit_scale))
            for score, values in class_scores(cosines, temperature).items()
        }
        parts[kind]["distance"] = -distances(features[chosen], features[support])
    return separations(parts["test"], parts["others"])


def cell(of: Separation) -> str:
    low, high = of.auroc_interval
    return f"{of.auroc:.3f} ({low:.3f}–{high:.3f}), {of.fpr:.0%}"


if __name__ == "__main__":
    print_help(__doc__)
    main()
