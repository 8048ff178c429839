"""What predictions cost beside the bare tower: a later call on a loaded run, and a whole process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vladapt import load_backbone, load_domain, load_run
from vladapt.core.engine.fit import fit

from .sets import PUBLIC, present

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


def lines(data: Path) -> Iterator[str]:
    """Medians of calls taken in turn, on one image of the blood cells."""
    cells = present(data, PUBLIC["blood cells"])
    if cells is None:
        return
    image = min(path for path in cells.rglob("*") if path.suffix in (".jpg", ".jpeg", ".png"))
    yield "| one image | beside | times as long |"
    yield "|---|---|---:|"
    with tempfile.TemporaryDirectory() as folder:
        run = fit(domain="medical", adapter={"name": "tip-adapter"}, out=folder).run
        predictor, backbone = load_run(run), load_backbone("embedded")
        pixels = load_domain("medical").transforms(backbone, False, "classification")
        loaded = pixels(np.asarray(Image.open(image).convert("RGB")))[None]
        predictor.predict(image), _encoded(backbone, loaded)
        call, bare = _medians(lambda: predictor.predict(image).rows(), lambda: _encoded(backbone, loaded))
        yield f"| a later call of a predictor | the bare tower | {call / bare:.2f} |"
        whole, alone = _medians(
            lambda: _process(sys.executable, "-m", "vladapt", "predict", run, image),
            lambda: _process(sys.executable, "-c", BARE_PROCESS, image),
        )
        yield f"| `vladapt predict` | a process that imports torch and builds the tower | {whole / alone:.2f} |"


def _medians(first, second) -> tuple[float, float]:
    """Seconds of two calls, taken in turn, so that a busy machine slows both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(CALLS):
        for call, kept in zip((first, second), seconds):
            started = time.perf_counter()
            call()
            kept.append(time.perf_counter() - started)
    return median(seconds[0]), median(seconds[1])


@torch.no_grad()
def _encoded(backbone, pixels: Tensor) -> Tensor:
    return backbone.encode_image(pixels)


def _process(*command) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
