"""What a user may say of a network of volumes and its training."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.contracts import option, settle
from ...core.errors import ConfigError

NETWORKS = ("dynunet", "segresnet-ds", "swin-unetr", "clip-driven")
AUTO, YES, NO = "auto", "yes", "no"


@dataclass(frozen=True, kw_only=True)
class VolumeOptions:
    """How a network of volumes is made, trained and asked."""

    network: str = option(
        "dynunet",
        "architecture, of MONAI; clip-driven takes sets that outline different structures",
        choices=NETWORKS,
    )
    organ_template: str = option(
        "A computerized tomography of a {}", "clip-driven: the text of a structure, with {} for its name"
    )
    steps: int | None = option(
        None, "training steps, by default 1000; --epochs counts 250 of them each, as nnU-Net does", low=1, high=10**6
    )
    patch_size: tuple[int, ...] | None = option(
        None, "voxels of a patch along Z, Y and X; by default by the fingerprint of the set", low=1, high=1024
    )
    width: int | None = option(
        None, "channels of the finest map; by default 32, of swin-unetr 48 (a multiple of 12)", low=1, high=1024
    )
    foreground: float = option(1 / 3, "share of patches that are centred on a structure", low=0, high=1)
    augment: str = option(
        "all",
        "changes of patches: mirrored; all: turns, scales, noise and contrast too",
        choices=("none", "mirror", "all"),
    )
    ensemble: int = option(
        1,
        "networks that are trained, each without another part of train and val; their scores are averaged",
        low=1,
        high=20,
    )
    mirrored: bool = option(False, "average the scores of eight mirrored views; eight times the time")
    largest: str = option(
        AUTO,
        "keep only the largest component of a structure: auto, where that is better on val",
        choices=(AUTO, YES, NO),
    )
    tolerance: float = option(1.0, "millimetres that surface Dice tolerates", above=0, high=1000)

    def __post_init__(self):
        settle(self, "the task volume-segmentation")
        if self.patch_size is not None and len(self.patch_size) != 3:
            raise ConfigError("--patch-size: give three numbers, along Z, Y and X: 96,96,96")
        if self.network == "swin-unetr" and self.width is not None and self.width % 12:
            raise ConfigError(f"--width {self.width}: swin-unetr needs a multiple of 12; give 24 or 48")
        if self.organ_template.count("{}") != 1:
            raise ConfigError(f"--organ-template {self.organ_template}: give a text with one {{}} for the name")


@dataclass(frozen=True)
class VolumeSchedule:
    """What a recipe says of the training besides; None where it says nothing.

    Args:
        backbone: spec of the towers whose texts steer clip-driven.
        batch_size: patches of a step, over all processes.
        amp: "bf16" or "fp16".
        epochs: of 250 steps each.
    """

    backbone: str | None
    batch_size: int | None
    amp: str | None
    epochs: int | None
    lr: float | None
    seed: int
    workers: int | None
