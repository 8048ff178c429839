"""What methods share that use random views of each test image, the image itself first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, option, require
from ...core.errors import CapabilityError
from ._views import random_views


@dataclass(eq=False, kw_only=True)
class SeenInViews(Adapter):
    """Base of the methods that encode views of each test image: itself, and random crops, flipped at random.

    Random numbers come from the seed and the image's content, so that results do not depend on the order of images.
    A method keeps `seed` in its state.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: at prediction, a batch without decoded images.
    """

    n_views: int = option(64, "views per test image, the image included", low=2, high=1000)
    crop_scale: tuple[float, float] = option(
        (0.08, 1.0), "smallest and largest share of the image's area that a crop keeps", above=0, high=1
    )
    augmix: bool = option(False, "mix each crop with slightly altered ones (AugMix)")

    def __post_init__(self):
        super().__post_init__()
        smallest, largest = self.crop_of_views
        require(smallest <= largest, "crop_scale", self.crop_scale, "give two shares, 0 < smallest <= largest <= 1")

    @property
    def crop_of_views(self) -> tuple[float, float]:
        """Smallest and largest share of the image's area that a view keeps."""
        return self.crop_scale

    def _bags(self, batch: Batch) -> Iterator[Tensor]:
        """(V, D) unit features of each image: as it is always looked at, then crops."""
        self._check_images_of(batch)
        known = None if batch.features is None else batch.unit.to(self.towers.device)  # (B, D), of view 0
        transform = batch.transform or self.towers.preprocess()
        for row, image in enumerate(batch.images):
            yield self._bag(image, transform, None if known is None else known[row])

    def _check_images_of(self, batch: Batch) -> None:
        """Raise the CapabilityError of a batch without decoded images."""
        if batch.images is None:
            raise CapabilityError(
                f"adapter '{self.name}' looks at views of each test image; pass decoded images as Batch(images=...)"
            )
        if batch.features is not None and len(batch.images) != len(batch.features):
            raise CapabilityError(
                f"{len(batch.images)} images for {len(batch.features)} rows of features; give one image per row"
            )

    def _bag(self, image: Any, transform, known: Tensor | None) -> Tensor:
        pixels = random_views(
            image,
            self.n_views - 1,
            self.towers.image_size,
            transform,
            scale=self.crop_of_views,
            augmix=self.augmix,
            seed=self.seed,
        )
        if known is None:
            pixels = torch.cat([transform(np.asarray(image))[None], pixels])
        features = self._encoded(pixels.to(self.towers.device)).float()
        return features if known is None else torch.cat([known[None], features])

    def _encoded(self, pixels: Tensor) -> Tensor:
        """(V, D) unit features of pixels."""
        with torch.no_grad():
            return self.towers.encode_image(pixels)


@dataclass(eq=False, kw_only=True)
class ScoredInViews(SeenInViews):
    """Base of those that learn nothing and score the bag of views against the texts as they are."""

    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "images"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "images", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "logit_bias", "seed")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.seed = classifier.weights, seed
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        return FitReport(self.name, notes=["nothing is learned: each test image is classified by its own views"])

    def _logits(self, batch: Batch) -> Tensor:
        device = self.text.device if batch.features is None else batch.features.device
        return torch.stack([self.scored(bag.to(self.text.device)) for bag in self._bags(batch)]).to(device)

    @abstractmethod
    def scored(self, bag: Tensor) -> Tensor:
        """(C,) logits of an image.

        Args:
            bag: (V, D) unit features of its views, the image itself first.
        """

    def _scores(self, bag: Tensor) -> Tensor:
        """(V, C) what the texts say of each view."""
        return self.logit_scale * bag @ self.text.T + self.logit_bias
