"""Grounding DINO and what follows it: one caption, whose tokens are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ....core.errors import ConfigError, DataError
from ..vocabulary import Vocabulary
from .captions import (
    END,
    ENDS,
    QUESTION,
    START,
    STOP,
    Phrase,
    PhraseCaption,
    caption_of,
    captions_of,
    drawn,
    phrases_of,
)
from .text_family import TextFamily
from .tokens import HeldTokenizer

CLASS_WEIGHT = 2.0
"""Of the focal loss, which transformers has in its code."""


class GroundingFamily(TextFamily):
    """What Grounding DINO and MM-Grounding-DINO share.

    In training all images of a batch are asked by one caption. It names all classes where they fit, else those that the
    batch shows and others drawn at random (`captions.drawn`). Asked, classes are in as many captions as it takes, and
    what all of them find is one ranking.

    No gradient of transformers' loss reaches the layers that choose where the decoder begins, nor the last norm of a
    Swin, which is not used: they stay as they are.
    """

    per_box = ("loss_ce", "loss_bbox", "loss_giou")
    of_tokens = "generate_masks_with_special_tokens_and_transfer_map"
    _read: tuple[Vocabulary, Any, list[Phrase]] | None = None
    untrained = ("encoder_output_bbox_embed", "model.enc_output", "swin.layernorm")

    @cached_property
    def longest(self) -> int:
        """Tokens of a caption."""
        config = self.stated
        return min(config.max_text_len, config.text_config.max_position_embeddings)

    @cached_property
    def weights(self) -> dict[str, float]:
        """Of the parts of the loss."""
        config = self.stated
        boxes = {"loss_bbox": config.bbox_loss_coefficient, "loss_giou": config.giou_loss_coefficient}
        return {"loss_ce": CLASS_WEIGHT, **boxes}

    def build(self) -> nn.Module:
        model = super().build()
        model.loss_function = _loss
        for name, parameter in model.named_parameters():
            if any(part in name for part in self.untrained):
                parameter.requires_grad_(False)
        return model

    def check_tokenizer(self, model: nn.Module, tokenizer: HeldTokenizer) -> None:
        """The model knows the ends of phrases by their numbers.

        Raises:
            DataError: they are others in the tokenizer.
        """
        own = {tokenizer.number(token) for token in (START, END, STOP, QUESTION)}
        if own != set(model.model.special_tokens.tolist()):
            raise DataError(
                "the tokenizer is of another model: the ends of its phrases have other numbers; copy the model again"
            )

    def prompts(self, vocabulary: Vocabulary, tokenizer: HeldTokenizer) -> list[PhraseCaption]:
        return captions_of(self._phrases(vocabulary, tokenizer), tokenizer, self.longest)

    def training_prompt(
        self, vocabulary: Vocabulary, tokenizer: HeldTokenizer, present: Iterable[int], absent: Sequence[int]
    ) -> PhraseCaption:
        phrases = _first_of_each(self._phrases(vocabulary, tokenizer))
        chosen = drawn([len(phrase) for phrase in phrases], present, absent, self.longest - ENDS)
        return caption_of([phrases[index] for index in chosen], tokenizer)

    def _phrases(self, vocabulary: Vocabulary, tokenizer: HeldTokenizer) -> list[Phrase]:
        """Read once, as long as the names are the same."""
        if self._read is None or self._read[0] is not vocabulary or self._read[1] is not tokenizer.tokenizer:
            phrases = phrases_of(vocabulary, tokenizer, self.longest)
            self._read = vocabulary, tokenizer.tokenizer, phrases
        return self._read[2]

    def embedded(self, model: nn.Module, prompt: PhraseCaption) -> None:
        """Nothing: texts and image change each other."""

    def inputs(self, pixels: Tensor, pixel_mask: Tensor, prompt: PhraseCaption | None = None) -> dict[str, Any]:
        if prompt is None:
            raise ConfigError("a model with texts is asked by a prompt; name classes")
        numbers = torch.tensor(prompt.numbers, device=pixels.device).expand(pixels.shape[0], -1)
        return {
            **super().inputs(pixels, pixel_mask),
            "input_ids": numbers,
            "token_type_ids": torch.zeros_like(numbers),
            "attention_mask": torch.ones_like(numbers),
        }

    def outputs(self, model, pixels, pixel_mask, prompt, embedded=None, labels=None):
        if labels is None:
            return model(**self.inputs(pixels, pixel_mask, prompt))
        label_map = prompt.label_map(model.config.max_text_len, pixels.device)
        labels = [{**label, "label_map": label_map} for label in labels]
        return model(**self.inputs(pixels, pixel_mask, prompt), labels=labels)

    def answers(self, outputs: Any, prompt: PhraseCaption) -> tuple[Tensor, Tensor]:
        return prompt.scores(outputs.logits), outputs.pred_boxes

    def weighted(self, outputs: Any) -> dict[str, Tensor]:
        kinds = {name: "_".join(name.split("_")[:2]) for name in outputs.loss_dict}
        parts = outputs.loss_dict.items()
        return {name: self.weights[kinds[name]] * part for name, part in parts if kinds[name] in self.weights}


def _first_of_each(phrases: Sequence[Phrase]) -> list[Phrase]:
    """Without synonyms, which would be wrong answers to their own class."""
    return list({phrase.owner: phrase for phrase in reversed(phrases)}.values())[::-1]


def _loss(logits, labels, device, pred_boxes, config, label_maps, text_mask, **layers):
    """transformers' loss, whose map from tokens to classes is the caption's own."""
    from transformers.loss.loss_grounding_dino import GroundingDinoForObjectDetectionLoss

    own = tuple(label["label_map"] for label in labels)
    return GroundingDinoForObjectDetectionLoss(logits, labels, device, pred_boxes, config, own, text_mask, **layers)
