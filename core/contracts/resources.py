"""What a fit may be given besides features: `resources[name]`, of the types below.

| name | type | whose `needs` or `optional` |
|---|---|---|
| `images` | `TrainingImages` | "pixels", "images" |
| `unlabeled_images` | `TrainingImages` of the unlabelled images, row by row | "pixels" or "images" with "unlabeled" |
| `place` | `TrainingPlace` | "pixels" |
| `pre_projection` | `PreProjection` | "pre_projection" |
| `patch_tokens` | `PatchTokens` of the support | "patch_tokens" |
| `descriptions` | C tuples of sentences, in the order of the classes | "descriptions" |
| `templates` | texts with `{}` for a class name | any with "text_encoder" |
| `captions` | `TextPool` | "captions" |
| `support_folder` | `FeatureSet` of images found or made for class names, labelled | "support_folder" |
| `support_captions` | `TextPool`, one text per row of `support_folder`, or absent | "support_folder" |
| `synonyms` | C tuples of (name, how often it was met), the class's own name among them | "synonyms" |
| `boxes` | `Detections` | "boxes" |
| `attributes` | C tuples of sentences that describe each class | "attributes" |
| `pair_attributes` | class -> other class -> sentences that tell the first from the other | "pair_attributes" |
| `vocabulary` | words that images may be named by | "vocabulary" |
| `realign_prompts` | word -> sentences that tell it from words like it | "realign_prompts" |
| `ctx` | (M, W) or (C, M, W) context vectors that another fit learned | "ctx" |
| `further_backbones` | tuple of `FurtherBackbone` | "further_backbones" |
| `keys` | `FurtherBackbone`, whose image features are the keys of a cache | "keys" |
| `base` | `BasePredictions` of the unlabelled images, by another fitted adapter | "base" |
| `batch_order` | (epochs, N) int64, the rows in the order of each epoch, not shuffled by the seed | any that trains |
| `bias` | (C,) to start from, not drawn by the seed | any that trains a bias |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .features import Detection, FeatureSet, TextClassifier

NEEDS = frozenset({
    "features", "raw_features", "parts", "views", "pre_projection", "text_encoder", "pixels", "images", "unlabeled",
    "descriptions", "captions", "boxes", "support_folder", "synonyms", "further_backbones", "ctx", "base", "keys",
    "patch_tokens", "attributes", "pair_attributes", "vocabulary", "realign_prompts",
})  # fmt: skip
OF_TOWERS = frozenset({"text_encoder", "pixels", "images"})
"""Needs that take the towers themselves."""
REQUIRED = {
    "pre_projection": "image features before the projection",
    "patch_tokens": "features of the patches of each image or part",
    "descriptions": "sentences about each class",
    "attributes": "sentences that describe each class",
    "captions": "a pool of captions",
    "synonyms": "synonyms of the class names",
    "boxes": "boxes from a detector",
    "support_folder": "a folder of images for the class names",
    "further_backbones": "features of further backbones",
    "base": "the predictions of another fitted adapter",
}
"""Names without which a method that lists them in `needs` cannot be fitted, in words."""


IN_PLACE_OF_CHANCE = frozenset({"batch_order", "bias"})
"""Names that any fit may look for, to repeat what another program drew; the engine never gives them."""


@dataclass(frozen=True)
class PreProjection:
    """Image features before the projection, row by row those of the fit.

    Args:
        support: (N, W) features with `tap` "pre_projection"; `views` (N, V, W) where the method asked for views.
        val: likewise of the val images, or None.
    """

    support: FeatureSet
    val: FeatureSet | None = None


class PatchTokens(ABC):
    """Features of the h x w patches of each image, or of each part of a sample, of N samples of T parts at most. They
    are many, and are read some samples at a time.

    Attributes:
        grid: (h, w).
        dim: D.
    """

    grid: tuple[int, int]
    dim: int

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """Samples (n,) int64 -> their tokens (n, T, h, w, D) float32, not normalised, in the order of the features'
        `parts`, zero where there is no part."""


class HeldPatchTokens(PatchTokens):
    """Those of a tensor (N, T, h, w, D)."""

    def __init__(self, tokens: Tensor):
        self.tokens = tokens
        _, _, height, width, self.dim = tokens.shape
        self.grid = (height, width)

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, index: Tensor) -> Tensor:
        return self.tokens[index]


@dataclass(frozen=True)
class TextPool:
    """Texts to search in.

    Args:
        texts: N texts.
        features: (N, D), not normalised.
    """

    texts: tuple[str, ...]
    features: Tensor

    def __len__(self) -> int:
        return len(self.texts)


Detections = Mapping[str, Sequence[Detection]]
"""Image id -> what was found in it; an image without an entry has none."""


@dataclass(frozen=True)
class FurtherBackbone:
    """What another backbone makes of the same images and classes.

    Args:
        spec: its name, or the features file's.
        support, val: its features, row by row those of the fit.
        classifier: its text classifier of the same classes.
    """

    spec: str
    support: FeatureSet
    val: FeatureSet | None
    classifier: TextClassifier


@dataclass(frozen=True)
class BasePredictions:
    """What another fitted adapter says of the unlabelled images; of those at prediction, see `Batch.base`.

    Args:
        adapter: its name.
        logits: (U, C), row by row the unlabelled images of the fit, in the order of its classes.
    """

    adapter: str
    logits: Tensor
