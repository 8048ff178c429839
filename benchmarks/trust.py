"""What docs/trust.md says, measured: each section by a command of its own, which prints its table.

python benchmarks/trust.py unlike
python benchmarks/trust.py calls
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from vladapt import load_backbone, load_domain, load_run
from vladapt.core.confidence import Unlike, distances
from vladapt.core.engine.fit import fit
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.feature_rows import prepared_of

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
SETS = {
    "blood cells": "medical/wbc_classification/images",
    "chest X-rays": "medical/pneumoniamnist/images",
    "groceries": "general/grocery/images",
    "clothing": "general/clothing/images",
    "satellite scenes": "remote_sensing/whu_rs19/images",
    "land use": "remote_sensing/rsscn7/images",
}
SHOTS, SEED = 16, 1
CALLS = 15
BARE_PROCESS = """
import sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
import vladapt
backbone = vladapt.load_backbone("embedded")
image = np.asarray(Image.open(sys.argv[1]).convert("RGB"))
pixels = backbone.preprocess(False)(image)[None]
with torch.no_grad():
    backbone.encode_image(pixels)
"""


def unlike(data: Path) -> None:
    """AUROC of the distance to the support, of each set's test images against those of each other set."""
    drawn = {name: _features(data / place) for name, place in SETS.items()}
    print(f"| fitted on | images | ordinary images flagged | {' | '.join(SETS)} |")
    print(f"|---|---:|---:|{'---:|' * len(SETS)}")
    for name, (support, own) in drawn.items():
        made = Unlike.of_rows(support, support, torch.eye(len(support), dtype=torch.bool))
        near = distances(own, support)
        shown = f"{float(made.flags(own).double().mean()):.0%}" if made.known else "too few to tell"
        far = [None if other is own else auroc(near, distances(other, support)) for _, other in drawn.values()]
        cells = ["–" if value is None else f"{value:.3f}" for value in far]
        print(f"| {name} | {len(support)} | {shown} | {' | '.join(cells)} |")


def auroc(ordinary: Tensor, others: Tensor) -> float:
    """Chance that one of the others scores higher than an ordinary one, ties counted half."""
    gap = others[:, None] - ordinary[None]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())


def _features(path: Path) -> tuple[Tensor, Tensor]:
    """Features of the support and of the test images."""
    recipe = resolve(flags={"domain": "medical", "data.path": str(path)})
    prepared = prepared_of(recipe, Reporter(quiet=True), load_domain("medical"), "classification")
    shots = prepared.draw(SHOTS, SEED)
    return shots.support.features, shots.test.features


def calls(data: Path) -> None:
    """What predictions cost beside the bare tower: a later call on a loaded run, and a whole process."""
    image = min(path for path in (data / SETS["blood cells"]).rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    with tempfile.TemporaryDirectory() as folder:
        run = fit(domain="medical", adapter={"name": "tip-adapter"}, out=folder).run
        predictor, backbone = load_run(run), load_backbone("embedded")
        pixels = load_domain("medical").transforms(backbone, False, "classification")
        loaded = pixels(_decoded(image))[None]
        predictor.predict(image), _encoded(backbone, loaded)
        call, bare = _medians(lambda: predictor.predict(image).rows(), lambda: _encoded(backbone, loaded))
        both = f"a later call on one image: {1000 * call:.1f} ms; the bare tower: {1000 * bare:.1f} ms"
        print(f"{both}; {call / bare:.2f} times as long")
        python = (sys.executable,)
        whole, alone = _medians(
            lambda: _process(*python, "-m", "vladapt", "predict", run, image),
            lambda: _process(*python, "-c", BARE_PROCESS, image),
        )
        both = f"vladapt predict: {whole:.2f} s; a process that builds the tower: {alone:.2f} s"
        print(f"{both}; {whole / alone:.2f} times as long")


def _medians(first, second) -> tuple[float, float]:
    """Seconds of two calls, taken in turn, so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(CALLS):
        for call, kept in zip((first, second), seconds):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1])


def _decoded(image: Path):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(image).convert("RGB"))


@torch.no_grad()
def _encoded(backbone, pixels: Tensor) -> Tensor:
    return backbone.encode_image(pixels)


def _process(*command) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


SECTIONS = {"unlike": unlike, "calls": calls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=sorted(SECTIONS))
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    SECTIONS[arguments.section](arguments.data)


if __name__ == "__main__":
    main()
