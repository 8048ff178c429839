"""Sets in the layouts that they are published in, of a few drawn images, and towers to score on them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.bench.towers import StoredTowers


def encoded(number: int, kind: str = "PNG") -> bytes:
    """A drawn image of 12 x 12 pixels: four colours, on which the answers of a random tower depend."""
    colours = np.random.default_rng(number).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    pixels = colours.repeat(6, axis=0).repeat(6, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def write_set():
    """`write_set(folder, beside, type=..., names=..., templates=...)` in CLIP_benchmark's layout, two tars; `beside` is
    (ending, contents) of what lies beside each image. Every other image is a WebP."""

    def write(folder: Path, beside: tuple[str, Sequence[bytes]], **files: str) -> Path:
        ending, contents = beside
        parts: Mapping[int, list] = {0: [], 1: []}
        for number, content in enumerate(contents):
            image = (
                (f"s{number:04d}.webp", encoded(number, "WEBP"))
                if number % 2
                else (f"s{number:04d}.png", encoded(number))
            )
            parts[int(2 * number >= len(contents))] += [image, (f"s{number:04d}.{ending}", content)]
        for number, members in parts.items():
            write_tar(folder / "test" / f"{number}.tar", members)
        named = {"type": "dataset_type", "names": "classnames", "templates": "zeroshot_classification_templates"}
        (folder / "test" / "nshards.txt").write_text("2")
        for key, text in files.items():
            (folder / f"{named[key]}.txt").write_text(text)
        return folder

    return write


@pytest.fixture
def towers(small_clip, tmp_path):
    """The small CLIP, as sets ask it."""
    from vladapt.core.features.store import FeatureStore
    from vladapt.core.runtime.progress import Reporter

    def read(folder):
        raise AssertionError("no set here is read as a plain folder")

    return StoredTowers(small_clip, read, Reporter(quiet=True), store=FeatureStore(tmp_path / "features"))
