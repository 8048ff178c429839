"""ReCo: images that show a concept are fetched from an archive, and what they have in common is looked for.

"ReCo: Retrieve and Co-segment for Zero-shot Transfer" (2022, arXiv 2206.07045).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ......core.backbones import load_backbone
from ......core.contracts import Backbone, require
from ......core.errors import ConfigError
from ......registry import MODELS
from ....vocabulary import Vocabulary, embed_queries, named_templates, text_backbone
from ..attention_heads import TOKENS, proxy_features, renormalize
from ..maskclip import value_features
from ..queries import published_templates
from ..training_free import TrainingFreeSegmentor, resize_to
from .archive import Archive, as_square
from .references import ReferenceFile, cosegment, likeness, without_context

CONTEXT = ("tree", "sky", "building", "road", "person")
SCENE_TEMPLATES = (
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


@MODELS.register_module()
class ReCo(TrainingFreeSegmentor):
    """`vladapt.ReCo`: a class scores by how like its reference embedding a place is, times how much it shows the text.

    References are made when they are first needed, and again when `set_classes` names others. What it predicts for
    images without masks is what ReCo+ trains a segmentor on.

    Args:
        backbone: spec of the backbone whose dense features are compared with text (published: CLIP's RN50x16).
        archive: images without labels: a folder, an index of `vladapt index`, or a file of `vladapt embed --images`.
            None where `references` holds all that is asked for.
        features: spec of the backbone whose features are compared between images (published: DeiT-S/16, trained on
            stylised ImageNet); None takes `backbone`.
        features_layer: index of one of its feature maps, the last by default, or "tokens".
        retrieval_backbone: spec of the backbone that fetches images by text (published: CLIP's ViT-L/14 at 336
            pixels); None takes `backbone`.
        references: a .safetensors file in which references are kept between processes.
        k: images that are fetched for a concept.
        context: concepts that are around everywhere; references of others keep away from them. Empty for none.
        text_attention: weigh the places of fetched images by the text.
        text_at_test: and those of the images to segment.
        archive_size: side of the squares that fetched images are seen as, in pixels.
        rows_at_once, released_windows: see `cosegment`.
        templates: 85 by default: those of CLIP's ImageNet classifier and five of things in scenes.
        logit_scale: what cosines with text are multiplied by before the sigmoid.
        **options: of `TrainingFreeSegmentor`. Images are seen whole, their short side 320. Scores are no
            probabilities: `prob_thd` is of the product, in 0..1.

    Raises:
        ConfigError: an option is not usable, or a concept has neither an archive nor a reference.
        CapabilityError: a backbone lacks what its part needs. DataError: the archive cannot be read.
    """

    references: Tensor

    def __init__(
        self,
        backbone: str,
        classes,
        *,
        archive: str | None = None,
        features: str | None = None,
        features_layer: int | str = -1,
        retrieval_backbone: str | None = None,
        references: str | None = None,
        k: int = 50,
        context: str | Sequence[str] = CONTEXT,
        text_attention: bool = True,
        text_at_test: bool = True,
        archive_size: int = 224,
        rows_at_once: int = 1024,
        released_windows: bool = False,
        templates: str | Sequence[str] | None = None,
        logit_scale: float = 10.0,
        short_side: int | None = 320,
        **options,
    ):
        for name, value in (("k", k), ("archive_size", archive_size), ("rows_at_once", rows_at_once)):
            require(type(value) is int and value >= 1, name, value, "give a whole number, 1 or more")
        if archive is None and references is None:
            raise ConfigError("ReCo: nothing to fetch images from; give archive=FOLDER, or references=FILE")
        needed = "image_tokens" if features_layer == TOKENS else "feature_maps"
        load_backbone(features or backbone, device="cpu").need(needed)
        templates = published_scenes() if templates is None else templates
        super().__init__(
            backbone, classes, templates=templates, logit_scale=logit_scale, short_side=short_side, **options
        )
        self.archive, self.k, self.text_attention, self.text_at_test = archive, k, text_attention, text_at_test
        self.features_spec, self.features_layer = features or backbone, features_layer
        self.retrieval_spec = retrieval_backbone or backbone
        self.context = [word for word in (context.split(",") if isinstance(context, str) else context) if word.strip()]
        self.archive_size, self.rows_at_once, self.released_windows = archive_size, rows_at_once, released_windows
        self.references_file = references
        self.register_buffer("references", torch.zeros(0), persistent=False)
        self._referenced: Vocabulary | None = None

    # Segmenting -----------------------------------------------------------------------------------------------------

    def patch_multiple(self, device: torch.device) -> int:
        return math.lcm(self.tower(device).image_stride, self.encoder(device).image_stride)

    def dense_features(self, pixels: Tensor) -> Tensor:
        return value_features(self.tower(pixels.device), pixels)[0]

    def query_logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, Q, H, W) in 0..1: likeness to the references times attention to the texts."""
        size = tuple(pixels.shape[-2:])
        scores = resize_to(likeness(self.places(pixels), self.current_references(pixels.device)), size)
        if self.text_at_test:
            scores = scores * resize_to(self.attention(pixels, self.queries()), size)
        return scores

    def probabilities(self, logits: Tensor) -> Tensor:
        """As they are: each concept is judged by itself."""
        return logits

    def encoder(self, device: torch.device) -> Backbone:
        """The backbone of the features, on a device."""
        return text_backbone(self.features_spec, str(device))

    def places(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), normalised for `backbone` -> (B, D', h, w): what is compared between images."""
        encoder = self.encoder(pixels.device)
        return proxy_features(encoder, renormalize(pixels, self.tower(pixels.device), encoder), self.features_layer)

    def attention(self, pixels: Tensor, texts: Tensor) -> Tensor:
        """(B, 3, H, W) and (Q, D) -> (B, Q, h, w) in 0..1."""
        return likeness(self.dense_features(pixels), texts, self.scale(pixels.device))

    # References -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def current_references(self, device: torch.device | str = "cpu") -> Tensor:
        """(Q, D') unit reference embeddings of the queries; made now if the classes are new.

        Raises:
            ConfigError: a concept has no reference, and there is no archive.
        """
        if self._referenced is not self.queries.asked:
            self.references = self._make_references(torch.device(device))
            self._referenced = self.queries.asked
        return self.references.to(device)

    def _make_references(self, device: torch.device) -> Tensor:
        kept = ReferenceFile(self.references_file, self._made_by())
        work = _ReferenceBuilder(self, kept, device)
        try:
            contexts: list[Tensor] = []
            around = Vocabulary.of(self.context, self.queries.templates) if self.context else None
            known: dict[tuple[str, ...], Tensor] = {}
            for prompts in around.queries if around else ():
                known[prompts] = work.reference(prompts, contexts)
                contexts = [*contexts, known[prompts]]
            for prompts in self.queries.asked.queries:
                if prompts not in known:
                    known[prompts] = work.reference(prompts, contexts)
            return torch.stack([known[prompts] for prompts in self.queries.asked.queries])
        finally:
            kept.write()  # what was made stays, whatever stopped the rest

    def _made_by(self) -> dict[str, Any]:
        specs = {"backbone": self.backbone_spec, "features": self.features_spec, "retrieval": self.retrieval_spec}
        options = (
            "features_layer",
            "k",
            "context",
            "text_attention",
            "archive_size",
            "released_windows",
            "logit_scale",
        )
        archive = {} if self.archive is None else {"archive": str(self.archive)}
        prints = {name: load_backbone(spec, device="cpu").fingerprint for name, spec in specs.items()}
        return {**prints, **{name: getattr(self, name) for name in options}, **archive}


class _ReferenceBuilder:
    """References one after another, with one archive and one pass over the texts."""

    def __init__(self, model: ReCo, kept: ReferenceFile, device: torch.device):
        self.model, self.kept, self.device = model, kept, device
        self._archive: Archive | None = None

    def reference(self, prompts: tuple[str, ...], contexts: list[Tensor]) -> Tensor:
        """(D',) of the concept that the prompts ask for, kept away from the contexts."""
        row = self.kept.get(prompts)
        if row is None:
            row = self._made(prompts, contexts)
            self.kept.put(prompts, row)
        return row.to(self.device)

    def _made(self, prompts: tuple[str, ...], contexts: list[Tensor]) -> Tensor:
        model, asked = self.model, Vocabulary((prompts[0],), (prompts,), (0,))
        retrieval = text_backbone(model.retrieval_spec, str(self.device))
        query = embed_queries(asked, retrieval)[0]  # (D,)
        text = embed_queries(asked, text_backbone(model.backbone_spec, str(self.device)))  # (1, D)
        features, weights = self._seen(self._fetched(prompts, retrieval, query), text)
        if contexts:
            weights = weights * without_context(features, torch.stack(contexts))
        return cosegment(features, weights, rows_at_once=model.rows_at_once, released_windows=model.released_windows)[0]

    def _fetched(self, prompts: tuple[str, ...], retrieval: Backbone, query: Tensor) -> Tensor:
        """(k, 3, S, S) in 0..1."""
        model = self.model
        if model.archive is None:
            raise ConfigError(
                f"references={model.references_file}: holds none for '{prompts[0]}'; give archive=FOLDER too"
            )
        if self._archive is None:
            self._archive = Archive.of(model.archive, retrieval)
        return torch.stack([as_square(image, model.archive_size) for image in self._archive.images(query, model.k)])

    def _seen(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Features (k, D', h, w) of images in 0..1, and the weights (k, h, w) of their places."""
        model, tower = self.model, self.model.tower(self.device)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (tower.image_mean, tower.image_std))
        features, weights = [], []
        for part in ((images - mean) / std).split(model.windows_per_batch):
            pixels = part.to(self.device)
            places = model.places(pixels).float()
            features.append(places)
            if model.text_attention:
                weights.append(resize_to(model.attention(pixels, text), tuple(places.shape[-2:]))[:, 0])
            else:
                weights.append(places.new_ones(len(places), *places.shape[-2:]))
        return torch.cat(features), torch.cat(weights)


def published_scenes() -> list[str]:
    """The templates of CLIP's ImageNet classifier, as far as they are there, and five of things in scenes."""
    return [*named_templates(published_templates()), *SCENE_TEMPLATES]
