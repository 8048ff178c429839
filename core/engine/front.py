"""What the image towers of compared backbones cost, beside what is reached with them: the front of speed and score."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..contracts.backbone import Backbone

ROUNDS = 5
BATCH = 8


@dataclass(frozen=True)
class ImageCost:
    """Of one image through an image tower.

    Args:
        milliseconds: the median of `ROUNDS` batches, divided by their images.
        gflop: floating-point operations of matrix products and convolutions in 1e9, a multiplication and an addition
            counted as two, as torch counts them.
        parameters: of the image tower, in millions.
    """

    milliseconds: float
    gflop: float
    parameters: float


@torch.inference_mode()
def cost_of(backbone: Backbone, batch: int = BATCH) -> ImageCost:
    """Measured on blank images, on the backbone's device, after one batch that is not counted."""
    pixels = backbone.blank_image().expand(batch, -1, -1, -1).to(backbone.device)
    seconds = []
    for _ in range(1 + ROUNDS):
        _wait(backbone)
        started = time.perf_counter()
        backbone.encode_image(pixels)
        _wait(backbone)
        seconds.append(time.perf_counter() - started)
    millions = sum(weight.numel() for weight in backbone.image_weights()) / 1e6
    return ImageCost(1000 * statistics.median(seconds[1:]) / batch, flops_of(backbone) / 1e9, millions)


@torch.inference_mode()
def flops_of(backbone: Backbone) -> int:
    """Of one image."""
    pixels = backbone.blank_image().to(backbone.device)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # whose products are counted
        if "image_blocks" in backbone.capabilities:  # a library's own pass may hide its products in one operator
            backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(pixels)))
        else:
            backbone.encode_image(pixels)
    return counter.get_total_flops()


def front(costs: Mapping[str, ImageCost], summary: Sequence[Mapping[str, Any]], method: str) -> list[dict[str, Any]]:
    """One dict per backbone, the fastest first: its costs, and the best mean that a method reaches with it at the most
    shots; over several data sets the mean of these. "on_front": no faster backbone is as good.

    Args:
        costs: spec -> of its image tower.
        summary: `Comparison.summary()`.
        method: the column of the method's name.
    """
    rows: list[dict[str, Any]] = []
    for spec, cost in sorted(costs.items(), key=lambda each: each[1].milliseconds):
        scores = _means(summary, method, spec)
        if not scores:
            continue
        best = max(scores, key=lambda name: scores[name])
        ahead = all(scores[best] > row["score"] for row in rows)
        metric = next(row["metric"] for row in summary)
        rows.append({"backbone": spec, **vars(cost), "metric": metric, "score": scores[best]})
        rows[-1] |= {method: best, "on_front": ahead}
    return rows


def _means(summary: Sequence[Mapping[str, Any]], method: str, spec: str) -> dict[str, float]:
    """Method -> mean over data sets at the most shots, of those that ran on all."""
    of = [row for row in summary if row.get("backbone") == spec]
    most = max((_shots(row) for row in of), default=0.0)
    learned = [row for row in of if _shots(row) == most]
    sets = {row["data"] for row in of}
    names = dict.fromkeys(row[method] for row in learned)
    values = {name: [row["mean"] for row in learned if row[method] == name] for name in names}
    return {name: statistics.fmean(each) for name, each in values.items() if len(each) >= len(sets)}


def _shots(row: Mapping[str, Any]) -> float:
    return float("inf") if row["shots"] is None else row["shots"]


def _wait(backbone: Backbone) -> None:
    if backbone.device.type != "cpu":
        torch.accelerator.synchronize(backbone.device)
