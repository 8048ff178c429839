"""Segmentors of transformers that are asked by texts, inside mmseg: CLIPSeg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor

from .....core.errors import ConfigError
from .....registry import MODELS
from ...hub_models.family import MAP, TEXTS, family_of, plain_values
from ...hub_models.loading import pretrained_tokenizer, pretrained_weights
from ...hub_models.pixel_logits import enlarged_logits
from ...hub_models.processor import image_processor
from ...hub_models.tokens import HeldTokenizer
from ...vocabulary import Classes, NamedClasses, Vocabulary
from .hf_segmentor import segmentor_preprocessor

BACKGROUND = "background"


@MODELS.register_module()
class HFTextSegmentor(BaseSegmentor, NamedClasses):
    """A model of transformers whose classes are texts, of a type that is listed in `hub_models.families`.

    Each class has a probability of its own in every pixel, and the largest decides. A class called "background" is not
    asked: it gets the pixels in which every other class is less likely than not. A single class has no other pixels
    than those in which it is likely. The tokenizer is part of the weights.

    Args:
        config: transformers' configuration as plain data; `model_type` says the type.
        classes: what it is asked for, as for `Vocabulary.of`.
        processor: options of its image processor as plain data.
        pretrained: folder with the weights to begin with, and the tokenizer; None for random ones.
        templates: what names are put into when asked, as for `Vocabulary.of`; by default the type's own.
        data_preprocessor: by default the processor's mean and std.

    Raises:
        ConfigError: no model was named, or one with a closed head. DataError: a type that is not listed, or weights or
            a tokenizer that do not fit.
    """

    align_corners = False
    _conditions: Tensor | None = None

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Classes,
        processor: Mapping[str, Any],
        pretrained: str | None = None,
        templates: str | Sequence[str] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("HFTextSegmentor: no model was named; give one to start from, --start hf:OWNER/NAME")
        family: Any = family_of(plain_values(config), 0)
        if family.asked_by != TEXTS or family.gives != MAP:
            raise ConfigError(f"HFTextSegmentor: {config['model_type']} gives no map of texts; use vladapt.HFSegmentor")
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or segmentor_preprocessor(prepared, family), init_cfg)
        self.family, self.templates = family, family.templates if templates is None else templates
        self.model = family.build()
        self.tokenizer = HeldTokenizer() if pretrained is None else pretrained_tokenizer(pretrained)
        if pretrained is not None:
            self.model.load_state_dict(pretrained_weights(pretrained, family, self.model, ()))
        self.take_classes(Vocabulary.of(classes, self.templates))

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Ask for these from now on."""
        self.vocabulary, self.names, self._conditions = vocabulary, vocabulary.names, None
        place = vocabulary.position(BACKGROUND)
        self.background_place = place if len(vocabulary) > 1 else None
        self.background_class = None if self.background_place is None else vocabulary.names[self.background_place]

    def extract_feat(self, inputs: Tensor):
        """Not used: transformers' model takes pixels."""
        raise NotImplementedError("HFTextSegmentor gives no feature maps; call its model")

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict] | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W) logits; those of the background are 0."""
        if self._conditions is None:  # CLIP is frozen: they depend on the names alone
            with torch.no_grad():
                self._conditions = self.family.conditions(self.model, self.vocabulary, self.tokenizer)
        logits = self.family.logits(self.model, inputs, self._conditions)
        if self.background_place is not None:
            logits = logits.index_fill(1, torch.tensor([self.background_place], device=logits.device), 0.0)
        return logits

    def choose(self, scores: Tensor) -> Tensor:
        """Logits (C, H, W) -> (1, H, W) numbers of classes, -1 of none."""
        chosen = scores.argmax(dim=0, keepdim=True)
        return chosen.masked_fill(scores <= 0, -1) if len(scores) == 1 else chosen

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """The parts of transformers' loss, over all classes but the background."""
        logits, targets = self.encode_decode(inputs), self.family.targets(data_samples, tuple(inputs.shape[-2:]))
        if self.background_place is not None:
            asked = [place for place in range(len(self.names)) if place != self.background_place]
            logits = logits[:, asked]
            places = torch.full((256,), len(asked), device=inputs.device)  # of no class that is asked
            places[asked], places[255] = torch.arange(len(asked), device=inputs.device), 255
            targets = [{"labels": places[target["labels"]]} for target in targets]
        return self.family.losses(logits, targets)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Sequence[SegDataSample]:
        """Samples with `seg_logits` (C, H, W) and `pred_sem_seg` (1, H, W), the size of each original image."""
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        for sample, logits in zip(samples, self.encode_decode(inputs), strict=True):
            whole = enlarged_logits(logits[None], tuple(sample.get("ori_shape", inputs.shape[-2:]))[:2])[0]
            sample.set_data({"seg_logits": PixelData(data=whole), "pred_sem_seg": PixelData(data=self.choose(whole))})
        return samples

    def train(self, mode: bool = True) -> HFTextSegmentor:
        """What training made of texts, perhaps in low precision, is made anew to be asked, and the other way round."""
        self._conditions = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self._conditions = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn, recurse: bool = True):
        self._conditions = None
        return super()._apply(fn, recurse)
