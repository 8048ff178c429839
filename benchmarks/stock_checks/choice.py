"""Which of the packaged configs of mmdet and mmsegmentation are tried: the smallest of each folder, by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from vladapt.core.errors import ConfigError, did_you_mean
from vladapt.domains.open_vocab.stack.packaged_configs import configs_folder

PACKAGES = ("mmdet", "mmseg")
SIZES = (
    "nano b0 400mf mobilenet mobilenetv2 hr18s",
    "tiny t r18 r18b w18 hr18 s12 slim b1 800mf",
    "small s r34 b2 s24 s16",
    "r50",
    "medium m base b r101 r101b x101 w32 hr48 b3 b16 m36",
    "large l x huge h b4 b5 l14",
)
"""Words in names of configs that tell how large a model is, from small to large."""
UNTOLD = SIZES.index("r50")


def folders() -> list[str]:
    """ "mmdet/atss": each folder of packaged configs, by package and name."""
    return [
        f"{package}/{folder.name}"
        for package in PACKAGES
        for folder in sorted(configs_folder(package).iterdir())
        if folder.is_dir() and folder.name[0] not in "_."
    ]


def chosen_folders(patterns: Sequence[str]) -> list[str]:
    """Those of `folders()` that are asked for; all, where nothing is.

    Args:
        patterns: "mmdet", "mmseg/fcn", or "fcn" for that folder of both.

    Raises:
        ConfigError: one names no folder.
    """
    there = folders()
    for pattern in patterns:
        if not any(_is_of(folder, pattern) for folder in there):
            names = {part for folder in there for part in (folder, folder.partition("/")[2])}
            raise ConfigError(f"no folder of packaged configs '{pattern}'; {did_you_mean(pattern, names)}")
    return [folder for folder in there if not patterns or any(_is_of(folder, pattern) for pattern in patterns)]


def by_size(folder: str) -> list[Path]:
    """The configs of a folder, the one that names the smallest model first; of equals the shortest name.

    Those of a pretraining come last: what GLIP was pretrained by has no loss of boxes, and can only be asked.
    """
    package, name = folder.split("/")
    return in_order_of_size((configs_folder(package) / name).glob("*.py"))


def in_order_of_size(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda file: (*_order(file.stem), len(file.stem), file.stem))


def _order(stem: str) -> tuple[bool, int]:
    words = re.split(r"[-_]", stem.lower())
    told = [rank for rank, names in enumerate(SIZES) for name in names.split() if name in words]
    return "pretrain" in words, min(told, default=UNTOLD)


def _is_of(folder: str, pattern: str) -> bool:
    return pattern in (folder, *folder.split("/"))
