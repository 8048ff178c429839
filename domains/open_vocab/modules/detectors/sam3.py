"""SAM 3 inside mmdet: things that phrases name, with outlines; every phrase over one embedding of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from .....core.errors import ConfigError
from .....registry import MODELS
from ...data.prompts import PROMPTS, UNNAMED
from ...hub_models.families.sam3 import Model
from ...hub_models.family import family_of
from ...hub_models.loading import pretrained_tokenizer, pretrained_weights
from ...hub_models.processor import image_processor
from ...hub_models.tokens import HeldTokenizer
from ...vocabulary import Classes, NamedClasses, Vocabulary
from .hf_detector import plain_values, preprocessor_of
from .region_labeller import given_regions

CONTEXT = 32
"""Tokens of a phrase."""
SAME = 0.5
"""Overlap from which on boxes that synonyms of a class found are taken to be of one thing."""
VISUAL = "visual"
"""The phrase of examples that have no name, as the processor has it."""


@MODELS.register_module()
class SAM3(BaseDetector, NamedClasses):
    """SAM 3's detector of images. It is not trained here.

    A class is asked by its name and its synonyms, one pass each over one embedding of the image. Where a user shows
    examples (`prompted`), an image's boxes go with the phrase of their class, as what is meant or as what is not.

    Args:
        config: transformers' configuration of a `sam3` as plain data, or of a `sam3_video` that holds one.
        classes: phrases, as for `Vocabulary.of`.
        processor: options of its image processor as plain data.
        pretrained: folder with weights and tokenizer; None for random ones. A run has both itself.
        templates: what names are put into when asked, as for `Vocabulary.of`; the first of them counts.
        score_thr: least score of a detection.

    Raises:
        ConfigError: no model was named, or another one.
    """

    keeps_names = takes_prompts = True
    prompted = False

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Classes,
        processor: Mapping[str, Any],
        pretrained: str | None = None,
        templates: str | Sequence[str] = "name",
        score_thr: float = 0.05,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("SAM3: no model was named; give one to start from, --start hf:OWNER/NAME --epochs 0")
        family = family_of(plain_values(config), 0)
        if not isinstance(family, Model):
            raise ConfigError(f"SAM3: {config['model_type']} is no SAM 3")
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or preprocessor_of(prepared, family.gives), init_cfg)
        self.family, self.score_thr, self.templates = family, score_thr, templates
        self.model = family.build()
        self.tokenizer = HeldTokenizer() if pretrained is None else pretrained_tokenizer(pretrained)
        if pretrained is not None:
            self.model.load_state_dict(pretrained_weights(pretrained, family, self.model, ()))
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}
        self.take_classes(Vocabulary.of(classes, self.templates))

    @property
    def names_given_regions(self) -> bool:
        """Whether the boxes of an image are examples: where a user shows them, never in a test."""
        return self.prompted

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Ask for these from now on."""
        self.vocabulary, self._texts = vocabulary, {}

    def extract_feat(self, batch_inputs: Tensor):
        """transformers' output of the image encoder."""
        return self.model.get_vision_features(batch_inputs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None):
        """transformers' outputs, one per phrase."""
        vision = self.extract_feat(batch_inputs)
        return [self._asked(vision, query[0]) for query in self.vocabulary.queries]

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """None.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"SAM 3 is not trained here: {self.family.why_not}")

    @torch.no_grad()
    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Samples with `pred_instances`: boxes in pixels of the original image (of the input without `rescale`),
        scores in 0..1, labels and masks, phrase by phrase."""
        vision = self.extract_feat(batch_inputs)
        places = range(len(batch_data_samples))
        groups = [[place] for place in places] if self.prompted else [list(places)]
        found: list[list[InstanceData]] = [[] for _ in places]
        for group in groups:
            samples = [batch_data_samples[place] for place in group]
            sizes = [tuple(sample.ori_shape[:2] if rescale else sample.img_shape[:2]) for sample in samples]
            part = _part(vision, group) if self.prompted else vision
            for query, owner in zip(self.vocabulary.queries, self.vocabulary.owners, strict=True):
                examples = _examples(samples[0], owner) if self.prompted else None
                outputs = self._asked(part, query[0], examples)
                for place, instances in zip(group, self.family.found(outputs, sizes, least=self.score_thr)):
                    instances.labels += owner
                    found[place].append(instances)
        return self.add_pred_to_datasample(batch_data_samples, [self._joined(each) for each in found])

    def _joined(self, parts: list[InstanceData]) -> InstanceData:
        """What all phrases found; of overlapping boxes of one class, which its synonyms found both, the surer."""
        joined = InstanceData.cat(parts)
        if len(self.vocabulary.queries) == len(self.vocabulary):
            return joined
        return joined[batched_nms(joined.bboxes, joined.scores, joined.labels, SAME)]

    def _asked(self, vision: Any, phrase: str, examples: tuple[Tensor, Tensor] | None = None) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        shown = {} if examples is None else {"input_boxes": examples[0], "input_boxes_labels": examples[1]}
        texts, mask = self._text(VISUAL if phrase == UNNAMED and shown else phrase)
        images = len(vision.fpn_hidden_states[0])
        texts = BaseModelOutputWithPooling(pooler_output=texts.expand(images, -1, -1))
        return self.model(vision_embeds=vision, text_embeds=texts, attention_mask=mask.expand(images, -1), **shown)

    def _text(self, phrase: str) -> tuple[Tensor, Tensor]:
        """Features (1, T, D) of a phrase and the mask (1, T) of its tokens, made once while names and weights stay."""
        if phrase not in self._texts:
            numbers, mask = self.tokenizer.padded([phrase], CONTEXT)
            features = self.model.get_text_features(numbers, attention_mask=mask, return_dict=True)
            self._texts[phrase] = features.pooler_output, mask
        return self._texts[phrase]

    def _load_from_state_dict(self, *args, **kwargs):
        self._texts = {}
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn, recurse: bool = True):
        self._texts = {}
        return super()._apply(fn, recurse)


def _part(vision: Any, places: Sequence[int]) -> Any:
    """The encoder's output of some images."""
    names = ("fpn_hidden_states", "fpn_position_encoding")
    return type(vision)(**{name: tuple(maps[places] for maps in getattr(vision, name)) for name in names})


def _examples(sample: DetDataSample, label: int) -> tuple[Tensor, Tensor] | None:
    """The boxes of a class on an image, (1, n, 4) as centre and size in shares of it, and which are meant, (1, n)."""
    regions = given_regions(sample)
    prompts = (sample.get("facts") or {}).get(PROMPTS) or [{"example": True}] * len(regions)
    of_class = (regions.labels == label).nonzero()[:, 0].tolist()
    if not of_class:
        return None
    height, width = sample.img_shape[:2]
    boxes = regions.bboxes[of_class] / regions.bboxes.new_tensor([width, height, width, height])
    meant = [int(prompts[place]["example"]) for place in of_class]
    return box_convert(boxes, "xyxy", "cxcywh")[None], torch.tensor([meant], device=boxes.device)
