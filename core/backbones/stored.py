"""Stored features of image-text pairs as a backbone, `stored:FILE`: both sides are looked up, nothing is encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone, normalized
from ..contracts.families import STORED
from ..contracts.images import ImageSize
from ..contracts.recipe import SAMPLE
from ..errors import CapabilityError, ConfigError, shortened
from ..features.pair_files import StoredPairs, load_pairs


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> StoredBackbone:
    """The backbone of a file of pairs, or of "sample".

    Raises:
        ConfigError: an image size is asked for. DataError: as of `load_pairs`.
    """
    if image_size not in (None, StoredBackbone.image_size):
        raise ConfigError(f"image_size={image_size}: backbone '{spec}' looks features up and sees no image; omit it")
    return StoredBackbone(load_pairs(rest), spec, device)


def stored_spec(path: str | Path) -> str:
    """By which the features of a file are a backbone, wherever it is asked for."""
    return f"{STORED}:{path if str(path) == SAMPLE else Path(path).absolute()}"


class StoredRow:
    """A stored row (1, D), in the place of a decoded image -> "pixels" (1, 1, D)."""

    spec: ClassVar[dict[str, Any]] = {"transform": STORED}

    def __call__(self, row: np.ndarray, seed: int | None = None) -> Tensor:
        if getattr(row, "ndim", 0) != 2:
            raise CapabilityError(
                "stored features have no image tower, so a new image cannot be encoded; give --backbone MODEL and the "
                "images themselves"
            )
        return torch.from_numpy(np.ascontiguousarray(row))[None].float()


class TowerlessBackbone(Backbone):
    """Features that are stored, in place of towers that make them.

    Args:
        spec: by which it is loaded again.
        device: of its scale.
        scale: of logits.
    """

    capabilities = frozenset()

    def __init__(self, spec: str, device: torch.device, scale: float):
        self.spec, self.device, self._scale = spec, device, scale
        self._model = nn.Module()

    @property
    def model(self) -> nn.Module:
        """Nothing that could be trained."""
        return self._model

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(self._scale, device=self.device)

    def to(self, device) -> Backbone:
        self.device = torch.device(device)
        return self


class StoredBackbone(TowerlessBackbone):
    """What a file of pairs is as a backbone.

    Args:
        pairs: that are looked up: an image by its row, a text by its words.
        spec: by which it is loaded again.
    """

    family = STORED
    image_size, image_mean, image_std, context_length = 1, (0.0,), (1.0,), 1

    def __init__(self, pairs: StoredPairs, spec: str, device: torch.device):
        super().__init__(spec, device, pairs.logit_scale)
        self.pairs = pairs
        self.embed_dim, self.licence, self.fingerprint = pairs.images.shape[1], pairs.licence, pairs.fingerprint
        self._row_of = {text: row for row, text in reversed(list(enumerate(pairs.captions)))}

    def preprocess(self, train: bool = False) -> Callable[[Any], Tensor]:
        return StoredRow()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Texts -> (N, 1) rows of the file.

        Raises:
            CapabilityError: a text that is not in the file.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if lacking := [text for text in texts if text not in self._row_of]:
            raise CapabilityError(
                f"'{shortened(lacking[0])}' is none of the {len(self._row_of)} texts of {self.spec}, and new words "
                "need the text tower; give the images and --backbone MODEL"
            )
        return torch.tensor([[self._row_of[text]] for text in texts], dtype=torch.int64).reshape(-1, 1)

    def token_mask(self, tokens: Tensor) -> Tensor:
        return torch.ones_like(tokens, dtype=torch.bool)

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """(B, 1, 1, D) stored rows -> (B, D)."""
        return normalized(pixels.to(self.device).flatten(1), normalize)

    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        rows = (texts if isinstance(texts, Tensor) else self.tokenize(texts)).flatten().cpu()
        return normalized(self.pairs.texts[rows].to(self.device), normalize)
