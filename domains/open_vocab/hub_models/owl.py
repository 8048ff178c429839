"""OWL-ViT and OWLv2: every patch of the image answers every text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.prompts import fill
from ..vocabulary import Vocabulary
from .captions import drawn
from .text_family import TextFamily
from .tokens import HeldTokenizer

MOST_QUERIES = 100
MERGED = 0.9
"""True boxes that overlap so much become one with the labels of both."""
KEPT = 0.1
"""Share of the patches that learn, by their objectness (OWLv2)."""


@dataclass(frozen=True)
class OwlQueries:
    """Texts of classes.

    Args:
        classes: indices of the classes.
        texts: of each class its queries, of each query its texts.
        tokenizer: that reads them.
    """

    classes: tuple[int, ...]
    texts: tuple[tuple[tuple[str, ...], ...], ...]
    tokenizer: HeldTokenizer


class OWLFamily(TextFamily):
    """What OWL-ViT and OWLv2 share, trained by this wing's own losses: transformers has none.

    Matching, focal loss, L1 and generalised IoU as published (`MatchingLoss`), boxes of one place merged, each class by
    a text that is drawn from CLIP's templates. A batch is asked for all classes where they are 100 at most, else for
    those that it shows and others drawn at random. Asked, a class is the mean of CLIP's seven templates.

    Not as published: all images of a batch are asked the same; no mosaics, and no layers are left out in training.
    """

    templates = "imagenet-7"
    tower: str
    """Name of the two towers in transformers' model."""

    def settings(self) -> dict[str, Any]:
        return {}

    def build(self) -> nn.Module:
        """Without gradients of what no loss reaches: the projection of whole images, and CLIP's scale."""
        model = super().build()
        towers = getattr(model, self.tower)
        towers.visual_projection.requires_grad_(False)
        towers.logit_scale.requires_grad_(False)
        return model

    def prompts(self, vocabulary: Vocabulary, tokenizer: HeldTokenizer) -> list[OwlQueries]:
        from ..modules.detectors.owlvit.queries import canonical_text

        texts: list[list[tuple[str, ...]]] = [[] for _ in vocabulary.names]
        for query, owner in zip(vocabulary.queries, vocabulary.owners, strict=True):
            texts[owner].append(tuple(map(canonical_text, query)))
        return [OwlQueries(tuple(range(len(texts))), tuple(map(tuple, texts)), tokenizer)]

    def training_prompt(
        self, vocabulary: Vocabulary, tokenizer: HeldTokenizer, present: Iterable[int], absent: Sequence[int]
    ) -> OwlQueries:
        chosen = drawn([1] * len(vocabulary), present, absent, MOST_QUERIES)
        pools = [_pool(vocabulary, index) for index in chosen]
        texts = [((pool[int(torch.randint(len(pool), ()))],),) for pool in pools]
        return OwlQueries(tuple(chosen), tuple(texts), tokenizer)

    def embedded(self, model: nn.Module, prompt: OwlQueries) -> Tensor:
        """(C, D) unit rows: of each class the mean of its queries, of each query the mean of its texts."""
        distinct = list(dict.fromkeys(text for queries in prompt.texts for query in queries for text in query))
        place = {text: row for row, text in enumerate(distinct)}
        towers = getattr(model, self.tower)
        numbers, mask = prompt.tokenizer.padded(distinct, towers.config.text_config.max_position_embeddings)
        encoded = towers.get_text_features(input_ids=numbers, attention_mask=mask).pooler_output
        encoded = F.normalize(encoded.float(), dim=-1)  # (T, D)
        queries = [[place[text] for text in query] for queries in prompt.texts for query in queries]
        rows = _unit_means(encoded, queries)  # (Q, D)
        first = list(accumulate(map(len, prompt.texts), initial=0))
        return _unit_means(rows, [range(*ends) for ends in pairwise(first)])

    def outputs(self, model, pixels, pixel_mask, prompt, embedded=None, labels=None):
        """Logits (B, N, C), pred_boxes (B, N, 4), and objectness_logits (B, N) of OWLv2; in training of the patches
        that learn."""
        queries = self.embedded(model, prompt) if embedded is None else embedded
        resampled = tuple(pixels.shape[-2:]) != (model.config.vision_config.image_size,) * 2
        maps, _ = model.image_embedder(pixel_values=pixels, interpolate_pos_encoding=resampled)  # (B, h, w, W)
        patches = maps.flatten(1, 2)
        boxes = model.box_predictor(patches, maps, resampled)
        objectness = model.objectness_predictor(patches) if hasattr(model, "objectness_head") else None
        if labels is not None and objectness is not None:
            best = objectness.topk(math.ceil(KEPT * objectness.shape[1]), dim=1).indices
            patches, boxes = (_rows(each, best) for each in (patches, boxes))
            objectness = objectness.gather(1, best)
        logits, _ = model.class_predictor(patches, queries.expand(pixels.shape[0], -1, -1))
        return SimpleNamespace(logits=logits, pred_boxes=boxes, objectness_logits=objectness)

    def losses(self, outputs, targets):
        """The weighted parts of `MatchingLoss`, each image by itself, and of OWLv2 how well the patches that learn know
        that they will answer."""
        from ..modules.detectors.owlvit.heads import merge_overlapping
        from ..modules.losses.matching import BoxTargets, MatchingLoss

        classes = outputs.logits.shape[-1]
        truth = [BoxTargets.of(target["boxes"], target["class_labels"], classes) for target in targets]
        parts = MatchingLoss()(outputs.logits, outputs.pred_boxes, [merge_overlapping(each, MERGED) for each in truth])
        if outputs.objectness_logits is None:
            return parts
        answered = outputs.logits.detach().float().sigmoid().amax(dim=-1)  # (B, N)
        objectness = F.binary_cross_entropy_with_logits(outputs.objectness_logits.float(), answered)
        return {**parts, "loss_objectness": objectness}

    def answers(self, outputs: Any, prompt: OwlQueries) -> tuple[Tensor, Tensor]:
        return outputs.logits.sigmoid(), outputs.pred_boxes


def _pool(vocabulary: Vocabulary, index: int) -> list[str]:
    """All texts of a class that training may draw."""
    from ..modules.detectors.owlvit.queries import PUBLISHED, canonical_text, joined_templates

    queries = [query for query, owner in zip(vocabulary.queries, vocabulary.owners, strict=True) if owner == index]
    texts = [
        *fill(joined_templates(PUBLISHED), vocabulary.names[index]),
        *(text for query in queries for text in query),
    ]
    return list(dict.fromkeys(map(canonical_text, texts)))


def _unit_means(rows: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """(N, D) and places of rows in each of G groups -> (G, D)."""
    places = torch.tensor([place for group in groups for place in group], device=rows.device)
    first = torch.tensor(list(accumulate(map(len, groups), initial=0))[:-1], device=rows.device)
    return F.normalize(F.embedding_bag(places, rows, first, mode="mean"), dim=-1)


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """(B, N, W) and (B, K) -> (B, K, W)."""
    return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))
