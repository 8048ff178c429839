"""CLIP-LoRA: low-rank updates of the attention of both towers, trained on a few labelled images.

Take it for images unlike anything the towers know, with a GPU or a small set.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...core.contracts import Backbone, ClassWeighting, RandomCrops, has, option, require
from ...core.training import (
    LowRank,
    TowerAdapter,
)

ITERATIONS = 500
"""Published: so many steps per shot."""
INPUT = "input."
"""Of the layer that takes the channels of an image, where there are more than three."""
TOWERS = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}


@dataclass(eq=False, kw_only=True)
class Lora(TowerAdapter):
    """Low-rank adaptation of both towers.

    Zanella and Ben Ayed, Low-Rank Few-Shot Adaptation of Vision-Language Models (CLIP-LoRA), 2024, arXiv 2405.18541.

    The query, key and value projections of every attention get a product of two matrices of rank 2 beside them, scaled
    by 1 / sqrt(rank), with a dropout of a quarter on their input; all else is frozen, the logit scale too. Images and
    the first prompt of each class are encoded anew in every step, and the loss is cross-entropy. The last weights are
    kept; nothing is chosen on val. Only the matrices are saved.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16), steps rounded up to
    whole epochs, blocks counted by each tower's own depth, and the domain's augmentation where it has one. A tower
    without attention (a CNN) stays as it is, and the report says so. In a tower that was widened to more than three
    channels the layer that takes them is trained too, as a whole.

    `iterations` counts where `epochs` is None: published are 500 per shot, the images of the largest class. On pairs
    there are 20 epochs.

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs. Without a text tower a vector per class is learned in place of its text; see `TowerAdapter`.

    Example:
        >>> adapter = build_adapter("lora", r=4, epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 unless `amp` says otherwise; steps are rounded up to whole epochs; blocks are counted by each tower's "
        "own depth. The comparison is of the layers; the training is checked against an explicit loop"
    )
    can: ClassVar[frozenset[str]] = TowerAdapter.can | {"channels"}
    text_free: ClassVar[bool] = True
    tower_weights: ClassVar[bool] = False
    packages: ClassVar[dict[str, str]] = {"peft": "fine-tune"}
    end_lr: ClassVar[float] = 1e-6

    crops = has(RandomCrops, published_crop=(0.08, 1.0))
    weighting = has(ClassWeighting)
    lr: float = 2e-4
    weight_decay: float = 1e-2
    warmup: float = 0.0
    prompts_a_class: int | None = 1
    iterations: int = option(ITERATIONS, "steps per shot, where epochs is none", low=1, high=10_000_000)
    r: int = option(2, "rank of the matrices", low=1, high=100_000)
    alpha: float = option(1.0, "what is divided by sqrt(r) to scale the matrices", above=0)
    dropout: float = option(0.25, "dropout of their input in training", low=0, below=1)
    params: tuple[str, ...] = option(("q", "k", "v"), "projections that get matrices", choices=LowRank.PARAMS)
    towers: str = option("both", "towers that get matrices", choices=TOWERS)
    positions: str = option("all", "blocks of each tower that get matrices", choices=LowRank.POSITIONS)

    def __post_init__(self):
        super().__post_init__()
        require(len(self.params) > 0, "params", self.params, "give some of q, k, v, out")

    def _epochs(self, steps: int, shots: int) -> int:
        return self.epochs or -(-self.iterations * shots // steps)

    def _choose(self, backbone: Backbone) -> list[str]:
        notes, layer = self._attach(backbone, self.dropout), backbone.input_layer()
        if layer is None:
            return notes
        layer.requires_grad_(True)
        return [*notes, f"the layer that takes the {len(backbone.channels)} channels of an image was trained too"]

    def _learned(self, trained: Backbone, base: Backbone) -> dict[str, Tensor]:
        matrices, layer = LowRank(trained).merge(), trained.input_layer()
        whole = {} if layer is None else layer.state_dict(prefix=INPUT)
        return {**matrices, **{name: value.detach().cpu().clone() for name, value in whole.items()}}

    def _put(self, backbone: Backbone) -> None:
        whole = {name.removeprefix(INPUT): value for name, value in self.changed.items() if name.startswith(INPUT)}
        self._attach(backbone, dropout=0.0)
        lora = LowRank(backbone)
        lora.load({name: value for name, value in self.changed.items() if not name.startswith(INPUT)})
        lora.merge()
        if whole:
            backbone.put_tensors(whole, backbone.input_layer())

    def _attach(self, backbone: Backbone, dropout: float) -> list[str]:
        options = {"r": self.r, "alpha": self.alpha, "params": self.params, "positions": self.positions}
        towers = [tower for tower in TOWERS[self.towers] if tower == "image" or backbone.has_text]
        if not towers:
            backbone.need_texts(f"option towers='{self.towers}' of adapter '{self.name}'")
        return attach_lora(backbone, dropout=dropout, towers=towers, **options)


def attach_lora(backbone: Backbone, **options: Any) -> list[str]:
    """LoRA on the towers, as `LowRank.add` takes its options; sentences on what could not have it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        LowRank.add(backbone, **options)
    return [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
