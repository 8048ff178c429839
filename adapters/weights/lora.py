"""CLIP-LoRA: low-rank updates of the attention of both towers, trained on a few labelled images."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.contracts.adapter import require
from ...core.contracts.backbone import Backbone
from ...core.training.lora import add_lora, check_lora_options, load_lora_state, lora_state, merge_lora
from ._towers import TowerAdapter

ITERATIONS = 500
"""Published: so many steps a shot."""
TOWERS = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}


@dataclass(eq=False, kw_only=True)
class Lora(TowerAdapter):
    """Low-rank adaptation of both towers.

    Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models (CLIP-LoRA), 2024, arXiv 2405.18541.

    The query, key and value projections of every attention get a product of two matrices of rank 2 beside them, scaled
    by 1 / sqrt(rank), with a quarter of its input dropped out; all else is frozen, the logit scale too. Images and the
    first prompt of each class are encoded anew in every step and trained by cross-entropy. The last weights are kept,
    nothing is chosen on val. Only the matrices are saved.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16), steps rounded up to
    whole epochs, blocks counted by each tower's own depth, and the domain's augmentation where it has one. A tower
    without attention (a CNN) stays as it is, and the report says so.

    Args:
        iterations: steps a shot, the images of the largest class, where `epochs` is None. On pairs: 20 epochs.
        r: rank.
        alpha: the scale is alpha / sqrt(r).
        dropout: share of the input that is left out in training, 0 to below 1.
        params: which projections, of q, k, v and out.
        towers: "both", "image" or "text".
        positions: which blocks of each tower: all, half-bottom, half-up, bottom, mid, up, top1, top2 or top3.
    """

    packages: ClassVar[dict[str, str]] = {"peft": "fine-tune"}
    own_crop: ClassVar[tuple[float, float]] = (0.08, 1.0)
    end_lr: ClassVar[float] = 1e-6

    lr: float = 2e-4
    weight_decay: float = 1e-2
    warmup: float = 0.0
    prompts_a_class: int | None = 1
    iterations: int = ITERATIONS
    r: int = 2
    alpha: float = 1.0
    dropout: float = 0.25
    params: tuple[str, ...] = ("q", "k", "v")
    towers: str = "both"
    positions: str = "all"

    def __post_init__(self):
        super().__post_init__()
        given = self.params.split(",") if isinstance(self.params, str) else self.params
        self.params = tuple(part.strip() for part in given)
        require(self.iterations >= 1, "iterations", self.iterations, "give 1 or more steps a shot")
        require(self.towers in TOWERS, "towers", self.towers, "there are both, image and text")
        check_lora_options(self.r, self.alpha, self.dropout, self.params, self.positions)

    def _epochs(self, steps: int, shots: int) -> int:
        return self.epochs or -(-self.iterations * shots // steps)

    def _choose(self, backbone: Backbone) -> list[str]:
        return self._hang(backbone, self.dropout)

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        matrices = lora_state(trained)
        merge_lora(trained)
        return matrices

    def _put(self, backbone: Backbone) -> None:
        self._hang(backbone, dropout=0.0)
        load_lora_state(backbone, self.changed)
        merge_lora(backbone)

    def _hang(self, backbone: Backbone, dropout: float) -> list[str]:
        """LoRA on the towers; sentences on what could not have it."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            add_lora(
                backbone,
                r=self.r,
                alpha=self.alpha,
                dropout=dropout,
                params=self.params,
                towers=TOWERS[self.towers],
                positions=self.positions,
            )
        return [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
