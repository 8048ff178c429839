"""What `--fast-decode` saves, and what it changes: the table in docs/measurements/scale.md.

    python benchmarks/fast_decode.py            # 16 photographs; a minute of CPU
    python benchmarks/fast_decode.py --page     # writes the table into docs/measurements/scale.md

Photographs of COCO val2017 (in the folder that VLADAPT_DATA names), enlarged to 12 megapixels with noise as of a
sensor, are decoded whole and as the decoder of JPEG reduces them: to 1, 2 or 4 times the pixels per side that the
backbone takes, or more. CPU time is that of decoding and preprocessing, the least of three; a difference is the length
of that of two unit features.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from vladapt.core.backbones import load_backbone, preprocessing
from vladapt.core.data.images import LEAST_SIDE, decode_bytes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "measurements" / "scale.md"
DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
SIZE, NOISE, QUALITY, REPEATS = (4000, 3000), 3.0, 92, 3


def enlarged(path: Path, numbers: np.random.Generator) -> bytes:
    """A photograph as a camera of 12 megapixels writes it."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS), np.float32)
    noisy = pixels + NOISE * numbers.standard_normal(pixels.shape, dtype=np.float32)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def measured(photographs, transform, side: int | None) -> tuple[torch.Tensor, float, tuple[int, int]]:
    """Pixels (N, 3, S, S), milliseconds per photograph, and the size that the last was decoded to."""
    decode = {} if side is None else {LEAST_SIDE: side}
    pixels, seconds = [], []
    for content in photographs:
        times = []
        for _ in range(REPEATS):
            started = time.process_time()
            decoded = decode_bytes(content, "photograph", decode)
            made = transform(decoded)
            times.append(time.process_time() - started)
        pixels.append(made)
        seconds.append(min(times))
    return torch.stack(pixels), 1000 * float(np.mean(seconds)), decoded.shape[1::-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--photographs", type=int, default=16)
    parser.add_argument("--page", action="store_true", help="write the table into docs/measurements/scale.md")
    asked = parser.parse_args()
    files = sorted((DATA / "detection_seg" / "coco_val128").rglob("*.jpg"))[: asked.photographs]
    numbers = np.random.default_rng(0)
    photographs = [enlarged(file, numbers) for file in files]
    backbone = load_backbone(asked.backbone, "cpu")
    plain = backbone.preprocess(False)
    fast = replace(plain, fast_decode=True)
    lines = ["| decoded to | pixels | CPU ms | difference, mean | largest |", "|---|---|---|---|---|"]
    whole = None
    for margin in (None, 4, 2, 1):
        side = None if margin is None else fast.least_side // preprocessing.FAST_MARGIN * margin
        pixels, milliseconds, size = measured(photographs, plain, side)
        with torch.inference_mode():
            features = F.normalize(backbone.encode_image(pixels).float(), dim=-1)
        whole = features if whole is None else whole
        distances = (features - whole).norm(dim=-1)
        name = "all of it" if margin is None else f"{margin} x {side // margin} or more"
        name += " (`--fast-decode`)" * (margin == preprocessing.FAST_MARGIN)
        differences = ["–", "–"] if margin is None else [f"{distances.mean():.3f}", f"{distances.max():.3f}"]
        cells = [name, f"{size[0]} x {size[1]}", f"{milliseconds:.0f}", *differences]
        lines.append(f"| {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    if asked.page:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(
            re.sub(r"\| decoded to \|.*?(?=\n\n)", lambda _: table, text, flags=re.DOTALL), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
