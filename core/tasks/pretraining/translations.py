"""Sentences and their translations as what a pre-training learns from: in their splits, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...contracts.backbone import Backbone
from ...contracts.options import options_from
from ...data.pairs.columns import text_at
from ...data.pairs.text_pairs import TextPairs, TextReading, read_text_pairs
from ...features.extract import AMP, in_eval_mode
from ..retrieval.encoding import EncodedPairs
from ..retrieval.scoring import RetrievalScores, scores_of_features
from .pairs import PairSplits, check_enough, global_order, some

READER = "the reader of sentences"
TEXTS_AT_ONCE = 256
WORDS = {"image": "sentence", "images": "sentences"}
"""What stands in the place of images in the scores, as `Domain.words`."""


def read_sentence_splits(path: str, seed: int, options: Mapping[str, Any]) -> PairSplits:
    """Sentences with their translations, split by sentence.

    Args:
        path: a .csv, .tsv or .jsonl.
        seed: of the split.
        options: fields of `TextReading`.

    Raises:
        DataError: nothing usable there, or nothing to train on.
    """
    reading = options_from(TextReading, {"seed": seed, **options}, READER)
    read = read_text_pairs(path, reading.translated, seed=reading.seed, val=reading.val, test=reading.test)
    train, val, test = (read.split(name) for name in ("train", "val", "test"))
    check_enough(path, len(train), "translations")
    notes = [
        f"Read: {len(read.sentences):,} sentences with {len(read):,} translations ({', '.join(read.languages)}). "
        "Scored are sentences, as the teacher reads them, and their translations."
    ]
    parts, order = (train, some(val), some(test)), global_order(len(train), "translations")
    return PairSplits(read.name, "unknown", *parts, order, len(read.sentences), len(read), read.skipped, notes)


def evaluate_translations(
    backbone: Backbone, teacher: Backbone, pairs: TextPairs, amp: str | None = None
) -> RetrievalScores:
    """How well translations find their sentences and sentences their translations, by what two towers make of them."""
    place: dict[str, int] = {}
    rows = pairs.sentence_of.tolist()
    number = torch.tensor([place.setdefault(text_at(pairs.sentences, int(row)), len(place)) for row in rows])
    translations = [text_at(pairs.translations, row) for row in range(len(pairs))]
    features = EncodedPairs(
        images=_encoded(teacher, list(place), amp),
        texts=_encoded(backbone, translations, amp),
        image_of_text=number,
        ids=tuple(f"sentence {row + 1}" for row in range(len(place))),
        captions=tuple(translations),
        groups=(None,) * len(place),
    )
    return scores_of_features(features, backbone)


def recall_by_language(scores: RetrievalScores, pairs: TextPairs) -> str:
    """Of several languages, the share of each one's translations that find their sentence first."""
    if len(pairs.languages) < 2 or scores.features is None:
        return ""
    features = scores.features
    nearest = (features.texts @ features.images.T).argmax(dim=1)
    right = (nearest == features.image_of_text).float()
    language = torch.from_numpy(pairs.language_of.astype("int64"))
    shares = [
        f"{name} {float(right[language == row].mean()):.1%}"
        for row, name in enumerate(pairs.languages)
        if bool((language == row).any())
    ]
    return f"Translations whose sentence comes first after the training: {', '.join(shares)}."


@torch.no_grad()
def _encoded(backbone: Backbone, texts: list[str], amp: str | None) -> Tensor:
    """(N, D) unit, on the CPU; equal texts once, the shortest first."""
    distinct = sorted(dict.fromkeys(texts), key=len)
    place = {text: row for row, text in enumerate(distinct)}
    with in_eval_mode(backbone.model), torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
        parts = [
            backbone.encode_text(distinct[start : start + TEXTS_AT_ONCE], normalize=False).float().cpu()
            for start in range(0, len(distinct), TEXTS_AT_ONCE)
        ]
    return F.normalize(torch.cat(parts), dim=-1)[[place[text] for text in texts]]
