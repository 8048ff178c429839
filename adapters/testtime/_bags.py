"""What methods share that use random views of each test image, the image itself first."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, Part, has, option, require
from ...core.errors import CapabilityError
from ._views import random_views


@dataclass(frozen=True, kw_only=True)
class RandomViews(Part):
    """Views of each test image: itself, and random crops, flipped at random.

    Random numbers come from the seed and the image's content, so that results do not depend on the order of images.
    A method keeps `seed` in its state.

    Args:
        published_crop: what crops keep of an image where `crop_scale` is none.
    """

    published_crop: tuple[float, float] = (0.08, 1.0)
    n_views: int = option(64, "views per test image, the image included", low=2, high=1000)
    crop_scale: tuple[float, float] = option(
        (0.08, 1.0), "smallest and largest share of the image's area that a crop keeps", above=0, high=1
    )
    augmix: bool = option(False, "mix each crop with slightly altered ones (AugMix)")

    def settled(self, adapter: Adapter) -> dict[str, Any]:
        smallest, largest = self.crop_scale or self.published_crop
        require(smallest <= largest, "crop_scale", self.crop_scale, "give two shares, 0 < smallest <= largest <= 1")
        return {}

    def bags(self, method: Any, batch: Batch, amp: torch.autocast | None = None) -> Iterator[Tensor]:
        """(V, D) unit features of each image: as it is always looked at, then crops.

        Args:
            method: whose towers and seed these are.
            amp: the precision in which crops are encoded; None: that of the towers.
        """
        self.check(method, batch)
        unit = None if batch.features is None else batch.unit.to(method.towers.device)  # (B, D), of view 0
        transform = batch.transform or method.towers.preprocess()
        for row, image in enumerate(batch.images):
            yield self.bag(method, image, transform, None if unit is None else unit[row], amp)

    def check(self, method: Any, batch: Batch) -> None:
        """Raise the CapabilityError of a batch without decoded images."""
        if batch.images is None:
            raise CapabilityError(
                f"adapter '{method.name}' looks at views of each test image; pass decoded images as Batch(images=...)"
            )
        if batch.features is not None and len(batch.images) != len(batch.features):
            raise CapabilityError(
                f"{len(batch.images)} images for {len(batch.features)} rows of features; give one image per row"
            )

    def bag(
        self, method: Any, image: Any, transform, first: Tensor | None, amp: torch.autocast | None = None
    ) -> Tensor:
        """(V, D) unit features of an image.

        Args:
            method, amp: as for `bags`.
            first: (D,) of the image itself, where they are at hand.
        """
        towers = method.towers
        pixels = random_views(
            image,
            self.n_views - 1,
            towers.image_size,
            transform,
            scale=self.crop_scale or self.published_crop,
            augmix=self.augmix,
            seed=method.seed,
        )
        if first is None:
            pixels = torch.cat([transform(np.asarray(image))[None], pixels])
        with torch.no_grad(), amp or nullcontext():
            features = towers.encode_image(pixels.to(towers.device)).float()
        return features if first is None else torch.cat([first[None], features])


@dataclass(eq=False, kw_only=True)
class ScoredInViews(Adapter):
    """Base of the methods that learn nothing and score the bag of views against the texts as they are."""

    label_free: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"features", "images"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"features", "images", "text_encoder"})
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "logit_bias", "seed")

    test_views = has(RandomViews)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        self.text, self.seed = classifier.weights, seed
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias or 0.0
        return FitReport(self.name, notes=["nothing is learned: each test image is classified by its own views"])

    def _logits(self, batch: Batch) -> Tensor:
        device = self.text.device if batch.features is None else batch.features.device
        return torch.stack([self.scored(bag.to(self.text.device)) for bag in self.test_views.bags(self, batch)]).to(
            device
        )

    @abstractmethod
    def scored(self, bag: Tensor) -> Tensor:
        """(C,) logits of an image.

        Args:
            bag: (V, D) unit features of its views, the image itself first.
        """

    def _scores(self, bag: Tensor) -> Tensor:
        """(V, C) what the texts say of each view."""
        return self.logit_scale * bag @ self.text.T + self.logit_bias
