"""What a user may say of a network that predicts a number for each pixel, and of its training."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.contracts import InputChannels, option, settle
from ...core.errors import ConfigError

TOWER = "tower"
ENCODERS = (TOWER, "resnet18", "resnet50", "unet")
DECODERS = ("fpn", "upernet", "linear")
FROZEN, LORA, FULL = "frozen", "lora", "full"
MSE, HUBER, L1 = "mse", "huber", "l1"
CONSTANT, PIXEL = "constant", "pixel"
CHANNELS = 64


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """How a network of numbers per pixel is made, trained and asked."""

    encoder: str = option(
        TOWER,
        "where features come from: tower, the image tower of --backbone, or a network from scratch",
        choices=ENCODERS,
    )
    decoder: str = option(
        "fpn", "head on the maps of the encoder, of mmsegmentation; linear: a 1x1 layer", choices=DECODERS
    )
    tuned: str = option(
        FULL, "of a tower: what trains besides the head: frozen (nothing), lora, full", choices=(FROZEN, LORA, FULL)
    )
    rank: int = option(4, "of --tuned lora: rank of the updates", low=1, high=1024)
    width: int | None = option(None, "channels of the head; by default 64", low=4, high=2048)
    loss_kind: str = option(
        MSE, "loss of a pixel, in standard deviations of the training targets", choices=(MSE, HUBER, L1)
    )
    steps: int | None = option(None, "training steps; by default 20 epochs, and 400 at least", low=1, high=10**6)
    augment: str = option(
        "turns", "changes of training windows: the eight turns and mirrorings", choices=("none", "turns")
    )
    interval: float = option(0.9, "share of pixels of a new place that intervals are to hold", above=0.5, below=1)
    interval_width: str = option(
        CONSTANT,
        "width of intervals: constant, or by pixel, from an error that the network predicts",
        choices=(CONSTANT, PIXEL),
    )
    target_unit: str | None = option(None, "unit of the target (m, t/ha); by default what its file says")

    def __post_init__(self):
        settle(self, "the task pixel-regression")
        if self.tuned != FULL and self.encoder != TOWER:
            raise ConfigError(f"--tuned {self.tuned}: {self.encoder} starts from scratch and trains whole; omit it")
        if self.encoder == "unet" and self.decoder != "fpn":
            raise ConfigError(f"--decoder {self.decoder}: unet has a decoder of its own; omit it")
        if self.rank != type(self).rank and self.tuned != LORA:
            raise ConfigError(f"--rank {self.rank}: is for --tuned lora; omit it, or give that")
        if self.width != type(self).width and self.decoder == "linear":
            raise ConfigError(f"--width {self.width}: the linear head has the channels of the encoder; omit it")

    @property
    def channels(self) -> int:
        """Of the head."""
        return self.width or CHANNELS


@dataclass(frozen=True)
class PixelSchedule:
    """What a recipe says of the training besides; None where it says nothing.

    Args:
        backbone: spec of the tower.
        batch_size: windows, or tiles of pairs, of a step, over all processes.
        amp: "bf16" or "fp16".
        channels: of images of three or more named bands.
    """

    backbone: str
    batch_size: int | None
    amp: str | None
    epochs: int | None
    lr: float | None
    seed: int
    workers: int | None
    channels: InputChannels | None = None
