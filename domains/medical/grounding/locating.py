"""Phrases looked for in images: each image goes through the tower once, and its patches are compared with its phrases.

What is kept of an image is a grid of similarities per phrase, so that memory does not grow with pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....core.backbones import searched
from ....core.contracts import Backbone, DomainData, Item, TextClassifier
from ....core.errors import CapabilityError, DataError
from ....core.features import FeatureStore, cores
from ....core.prompts import build_classifier, fill
from ....core.runtime import Reporter
from .maps import NEAREST, SIGMA, Region, phrase_cosines, phrase_feature, smoothed
from .phrases import Sought

AT_ONCE = 16
TOKENS, FEATURES = "image_tokens", "image_features"


@dataclass(frozen=True)
class Located:
    """A phrase in an image.

    Args:
        sought: what is looked for.
        grid: (h, w) similarities of the patches, smoothed.
        region: what the tower sees of the image.
        probability: that the image shows the finding, by the image alone.
    """

    sought: Sought
    grid: Tensor
    region: Region
    probability: float

    def heat(self, interpolation: str = NEAREST) -> Tensor:
        """(H, W) in the pixels of the whole image, NaN where the tower sees nothing."""
        return self.region.spread(self.grid, interpolation)


@dataclass(frozen=True)
class Locator:
    """A model that looks for phrases. Made by `of`.

    Args:
        backbone: its towers.
        transform: decoded image -> pixels.
        sigma: of the Gaussian filter, in patches.
        texts: wording -> what of it is compared with patches.
        classifier: of the findings, each against its absence.
    """

    backbone: Backbone
    transform: Any
    sigma: float
    texts: Mapping[str, Tensor]
    classifier: TextClassifier

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        transform: Any,
        sought: Sequence[Sought],
        templates: tuple[Sequence[str], Sequence[str]],
        store: FeatureStore,
        sigma: float = SIGMA,
    ) -> Locator:
        """Encodes all that is looked for.

        Args:
            templates: texts with `{}` that say that a finding is there, and that it is not.
            store: of text features.

        Raises:
            CapabilityError: the towers give no features of patches in the space of texts.
        """
        check_patches(backbone)
        wordings = list(dict.fromkeys(text for each in sought for text in each.wordings))
        looking = backbone.finder
        if looking is None:
            texts = dict(zip(wordings, store.text_features(backbone, wordings)))
        else:
            with torch.inference_mode():
                texts = {text: looking.words_of(backbone, text) for text in wordings}
        there, absent = templates
        findings = list(dict.fromkeys(each.finding for each in sought))
        free = [each.phrase for each in sought if each.finding == each.phrase]  # names no finding that is known
        sentences = {text: ([text], fill(absent, text.rstrip(". "))) for text in free}
        classifier = build_classifier(
            searched(backbone), findings, there, negative_templates=absent, sentences=sentences
        )
        return cls(backbone, transform, sigma, texts, classifier.to("cpu"))

    def located(
        self,
        data: DomainData,
        asked: Sequence[tuple[Item, Sequence[Sought]]],
        reporter: Reporter,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[tuple[Item, list[Located] | str]]:
        """Each image with its phrases, or why it cannot be used, in their order.

        Args:
            data: whose `load` decodes.
            asked: images, each with what is looked for in it.
            batch_size, workers: images at once through the tower, and threads that decode.
        """
        size, done = batch_size or AT_ONCE, 0
        _, grid = self.backbone.image_tokens(self.backbone.blank_image())
        with reporter.task("Looking for phrases", unit="images") as progress:
            for some in self._batches(data, asked, size, workers):
                kept = [place for place, (_, _, pixels) in enumerate(some) if isinstance(pixels, Tensor)]
                outputs = self._encoded(torch.stack([some[place][2] for place in kept])) if kept else {}
                for place, ((item, sought), (height, width, pixels)) in enumerate(zip(asked[done:], some)):
                    if isinstance(pixels, str):
                        yield item, pixels
                        continue
                    row = kept.index(place)
                    region = Region.seen(self.transform.spec, (height, width))
                    logits = self.classifier.logits(outputs[FEATURES][row][None])[0]
                    yield item, [self._one(each, outputs[TOKENS][row], grid, region, logits) for each in sought]
                done += len(some)
                progress(done, len(asked))

    def _one(self, sought: Sought, patches: Tensor, grid: Sequence[int], region: Region, logits: Tensor) -> Located:
        texts = [self.texts[text] for text in sought.wordings]
        if self.backbone.finder is None:
            map_ = phrase_cosines(patches, phrase_feature(torch.stack(texts)), grid)
        else:
            looks = [self.backbone.finder.look(patches, words) for words in texts]
            map_ = torch.stack(looks).mean(dim=0).cpu().unflatten(0, tuple(grid))
        place = self.classifier.class_names.index(sought.finding)
        return Located(sought, smoothed(map_, self.sigma), region, float(logits[place].sigmoid()))

    def _encoded(self, pixels: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            pixels = pixels.to(self.backbone.device)
            out = self.backbone.image_outputs(pixels, frozenset({TOKENS, FEATURES}))
            if self.backbone.finder is not None:
                out[FEATURES] = searched(self.backbone).encode_image(pixels)
            return {name: value.float().cpu() for name, value in out.items()}

    def _batches(
        self, data: DomainData, asked: Sequence[tuple[Item, Any]], size: int, workers: int | None
    ) -> Iterator[list[tuple[int, int, Tensor | str]]]:
        """(height, width, pixels or why there are none) of some images, while the next are decoded."""

        def read(pair: tuple[Item, Any]) -> tuple[int, int, Tensor | str]:
            try:
                image = data.load(pair[0])
            except DataError as error:
                return 0, 0, str(error)
            if image.ndim == 4:
                return 0, 0, "has several slices; phrases are looked for in single pictures"
            return *image.shape[:2], self.transform(image)

        parts = [asked[start : start + size] for start in range(0, len(asked), size)]
        with ThreadPoolExecutor(workers or cores()) as threads:
            ahead = threads.map(read, parts[0]) if parts else iter(())
            for following in [*parts[1:], []]:
                current, ahead = list(ahead), threads.map(read, following)
                yield current


def check_patches(backbone: Backbone) -> None:
    """Raise the CapabilityError of towers whose patches cannot be compared with texts."""
    backbone.need("image_tokens")
    backbone.need_texts()
    if backbone.finder is not None and not backbone.finder.looks:
        raise CapabilityError(
            f"backbone '{backbone.spec}' finds images by loss '{backbone.finder.name}', which says nothing of their "
            "patches; use a backbone without it, or one trained by gloria"
        )
