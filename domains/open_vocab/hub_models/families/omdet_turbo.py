"""Real-time Transformer-based Open-Vocabulary Detection with Efficient Fusion Head (OmDet-Turbo), 2024, arXiv
2403.06892."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision.ops import batched_nms

from ..family import Rates
from ..text_family import TextFamily

LENGTH = 77
SUPPRESSED = 0.5
"""Boxes of one class that overlap more go but for the best."""


@dataclass(frozen=True)
class TaskTokens:
    """A sentence on all classes, and a text of each: numbers of tokens and masks, (1, L) and (C, L)."""

    classes: tuple[int, ...]
    sentence: tuple[torch.Tensor, torch.Tensor]
    names: tuple[torch.Tensor, torch.Tensor]


class Model(TextFamily):
    """Asked for all names at once. A class is its name alone; synonyms and descriptions are not used."""

    model_class = "OmDetTurboForObjectDetection"
    processors = ("DetrImageProcessor",)
    no_graph = "torch's exporter cannot express how it reads its names"
    why_not = "transformers has no loss for it"
    rates = Rates(lr=1e-4)

    def settings(self):
        return {}

    def prompts(self, vocabulary, tokenizer):
        names = list(vocabulary.names)
        sentence = tokenizer.padded([f"Detect {', '.join(names)}."], LENGTH)
        return [TaskTokens(tuple(range(len(names))), sentence, tokenizer.padded(names, LENGTH))]

    def training_prompt(self, vocabulary, tokenizer, present, absent):
        raise NotImplementedError(self.why_not)

    def embedded(self, model, prompt):
        """Nothing: transformers' model keeps what it made of texts itself."""

    def inputs(self, pixels, pixel_mask, prompt=None):
        count = pixels.shape[0]
        (sentence, sentence_mask), (names, names_mask) = prompt.sentence, prompt.names
        return {
            "pixel_values": pixels,
            "classes_input_ids": names.repeat(count, 1),
            "classes_attention_mask": names_mask.repeat(count, 1),
            "tasks_input_ids": sentence.repeat(count, 1),
            "tasks_attention_mask": sentence_mask.repeat(count, 1),
            "classes_structure": torch.full((count,), len(names), device=pixels.device),
        }

    def answers(self, outputs, prompt):
        return outputs.decoder_class_logits.sigmoid(), outputs.decoder_coord_logits

    def best_of_prompts(self, answers, sizes, most):
        """Without boxes of one class that overlap by half, and inside the image."""
        kept = []
        for each, (height, width) in zip(super().best_of_prompts(answers, sizes, most), sizes, strict=True):
            each = each[batched_nms(each.bboxes, each.scores, each.labels, SUPPRESSED)]
            each.bboxes = each.bboxes.clamp(min=0).minimum(each.bboxes.new_tensor([width, height, width, height]))
            kept.append(each)
        return kept
