"""Image Segmentation Using Text and Image Prompts (CLIPSeg), 2022, arXiv 2112.10003."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...vocabulary import Vocabulary
from ..family import MAP, TEXTS, Family, Rates
from ..pixel_logits import IGNORED, mean_over_processes, pixel_labels
from ..tokens import HeldTokenizer


class Model(Family):
    """A small decoder over a frozen CLIP, which is told by a text what to outline.

    A class is asked by the mean of what CLIP makes of its texts. Fine-tuned as published: AdamW at 1e-3, CLIP frozen.
    The authors ask an image for one phrase, at times for one that it does not show; here it is asked for every class.
    Prompts that are images are not taken.
    """

    model_class = "CLIPSegForImageSegmentation"
    processors = ("ViTImageProcessor",)
    gives = MAP
    asked_by = TEXTS
    any_size = False
    templates = "photo"
    rates = Rates(lr=1e-3, weight_decay=0.01, clip=None)

    def settings(self):
        return {}

    def build(self):
        """Without gradients of CLIP, which transformers never asks for any."""
        model = super().build()
        model.clip.requires_grad_(False)
        return model

    def conditions(self, model, vocabulary: Vocabulary, tokenizer: HeldTokenizer) -> Tensor:
        """(C, D): what each class is asked by."""
        length, device = int(model.config.text_config.max_position_embeddings), next(model.parameters()).device
        rows = []
        for place in range(len(vocabulary)):
            texts = [
                text
                for owner, query in zip(vocabulary.owners, vocabulary.queries, strict=True)
                for text in query
                if owner == place
            ]
            numbers, mask = (each.to(device) for each in tokenizer.padded(texts, length))
            rows.append(
                model.get_conditional_embeddings(len(texts), input_ids=numbers, attention_mask=mask).mean(dim=0)
            )
        return torch.stack(rows)

    def logits(self, model, pixels: Tensor, conditions: Tensor) -> Tensor:
        """(B, C, H, W): CLIP sees an image once for all classes."""
        with torch.no_grad():
            seen = model.clip.get_image_features(
                pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True
            )
            layers = [seen.hidden_states[layer + 1] for layer in model.extract_layers]
        maps = [model.decoder(layers, each.expand(pixels.shape[0], -1)).logits for each in conditions]
        return torch.stack(maps, dim=1)

    def targets(self, samples: Sequence[Any], shape: tuple[int, int]) -> list[dict[str, Tensor]]:
        return pixel_labels(samples, shape)

    def losses(self, outputs: Tensor, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The binary cross entropy of every class, over the pixels that are not ignored.

        Args:
            outputs: (B, C, H, W) logits.
        """
        labels = torch.stack([target["labels"] for target in targets])[:, None]  # (B, 1, H, W)
        classes = torch.arange(outputs.shape[1], device=labels.device)[:, None, None]
        each = F.binary_cross_entropy_with_logits(outputs, (labels == classes).to(outputs), reduction="none")
        known = labels != IGNORED
        count = mean_over_processes(known.sum().float()).clamp(min=1) * outputs.shape[1]
        return {"loss_mask": (each * known).sum() / count}
