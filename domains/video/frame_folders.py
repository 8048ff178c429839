"""Folders of frames: each is one clip, its images in the order of the numbers in their names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...core.contracts import Decoded, Item
from ...core.data import IMAGE, Format, stays_inside, visible
from ...core.errors import DataError
from ...core.runtime import version_of
from .clips import Sampling, chosen_frames, clip_of

FRAME_SUFFIXES = tuple(suffix for suffix in IMAGE.suffixes if suffix != ".gif")
NUMBERS = re.compile(r"(\d+)")
CHUNK = 1 << 20


def frame_folders(
    sampling: Sampling, rate: float, pattern: str | None = None, max_pixels: int = Item.MAX_PIXELS
) -> Format:
    """Folders of images as clips.

    Args:
        sampling: which frames.
        rate: frames per second.
        pattern: names of the frames, `*` for anything ("img_*.jpg"); by default all images.
        max_pixels: a larger frame is refused.
    """

    def of_folder(folder: Path) -> Path | None:
        names = _frames(folder, pattern, _version(folder))
        return folder / names[0] if names else None

    def expand(first: Path) -> list[dict[str, Any]]:
        names = _frames(first.parent, pattern, _version(first.parent))
        own = {} if pattern is None else {"pattern": pattern}
        return [{**sampling.as_decode(), "rate": rate, **own, "digest": _digest(first.parent, names)}]

    return Format(
        "folder of frames",
        FRAME_SUFFIXES,
        load=_load,
        expand=expand,
        of_folder=of_folder,
        max_pixels=max_pixels,
    )


def duration_of_folder(first: Path, decode: Mapping[str, Any]) -> float:
    """Seconds of the clip that a folder of frames is.

    Args:
        first: the frame that stands for it.
        decode: with "rate" and "pattern".
    """
    return len(_frames(first.parent, decode.get("pattern"), _version(first.parent))) / float(decode["rate"])


def _load(first: Path, decode: Mapping[str, Any]) -> Decoded:
    """As `load_clip`, of the folder that `first` lies in."""
    first, decode = Path(first), dict(decode)
    names = _frames(first.parent, decode.get("pattern"), _version(first.parent))
    if not names:
        raise DataError(f"{first.parent}: holds no frame; replace or remove it")

    def draw(seed: int | None) -> np.ndarray:
        rate = float(decode["rate"])
        times = np.arange(len(names)) / rate
        positions = chosen_frames(first.parent, times, len(names) / rate, decode, seed)
        return _read(first.parent, [names[k] for k in positions], decode)

    return clip_of(draw, decode)


def _read(folder: Path, names: list[str], decode: Mapping[str, Any]) -> np.ndarray:
    """(T, H, W, 3) uint8, all of the size of the first."""
    reduced: dict[str, np.ndarray] = {}
    size = None
    for name in dict.fromkeys(names):
        pixels = IMAGE.load(folder / name, {"max_pixels": int(decode.get("max_pixels", Item.MAX_PIXELS))})
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels * 255).astype(np.uint8)
        if size is None:
            height, width = pixels.shape[:2]
            shrink = min(1.0, Sampling.of(decode).short_side / min(height, width))
            size = max(1, round(width * shrink)), max(1, round(height * shrink))
        if size != (pixels.shape[1], pixels.shape[0]):
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        reduced[name] = pixels
    return np.stack([reduced[name] for name in names])


def _version(folder: Path) -> tuple[int, ...]:
    return version_of(folder.stat()) if folder.is_dir() else ()


@lru_cache(maxsize=4096)
def _frames(folder: Path, pattern: str | None, version: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the frames in a folder, by the numbers in them; links that lead out of what holds it are none."""
    if not folder.is_dir():
        return ()
    names = [
        entry.name
        for entry in visible(folder)
        if entry.name.lower().endswith(FRAME_SUFFIXES)
        and (not entry.is_symlink() or stays_inside(Path(entry.path), folder.parent))
    ]
    if pattern is not None:
        names = [name for name in names if fnmatch(name, pattern)]
    return tuple(sorted(names, key=_by_numbers))


def _by_numbers(name: str) -> list[tuple[int, int | str]]:
    """frame_9 before frame_10."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in NUMBERS.split(name)]


def _digest(folder: Path, names: tuple[str, ...]) -> str:
    """Of all frames: copies of a clip have the same, whatever they are called."""
    digest = hashlib.sha256()
    for name in names:
        digest.update((folder / name).stat().st_size.to_bytes(8, "big"))
        with open(folder / name, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
