"""Detectors of transformers that are asked by texts, inside mmdet: Grounding DINO, OWL-ViT and their kin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from .....core.errors import ConfigError
from .....registry import MODELS
from ...hub_models.family import HEAD, family_of, large_enough
from ...hub_models.loading import pretrained_tokenizer, pretrained_weights
from ...hub_models.processor import image_processor, pixel_mask
from ...hub_models.text_family import TextFamily, placed_in_prompt
from ...hub_models.tokens import HeldTokenizer
from ...vocabulary import Classes, NamedClasses, Vocabulary
from .hf_detector import plain_values, preprocessor_of

LEAST_SIDE = 0.01
"""Of a box, in pixels: what is left of one that lies outside the image has less."""


@MODELS.register_module()
class HFTextDetector(BaseDetector, NamedClasses):
    """A model of transformers whose classes are texts, of a type that is listed in `hub_models.families`.

    Its tokenizer is part of its weights, so that a run reads names by itself.

    Args:
        config: transformers' configuration as plain data; `model_type` says the type.
        classes: what it is asked for, as for `Vocabulary.of`.
        processor: options of its image processor as plain data.
        pretrained: folder with the weights to begin with, and the tokenizer; None for random ones.
        templates: what names are put into when asked, as for `Vocabulary.of`; by default the type's own.
        max_per_img: detections per image, the best pairs of a box and a class.
        score_thr: what detections score more than.
        data_preprocessor: by default the processor's mean and std.

    Raises:
        ConfigError: no model was named, or one that is not asked for boxes by texts. DataError: a type that is not
            listed, or weights or a tokenizer that do not fit.
    """

    family: TextFamily
    _prompts: list[tuple[Any, Any]] | None = None

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Classes,
        processor: Mapping[str, Any],
        pretrained: str | None = None,
        templates: str | Sequence[str] | None = None,
        max_per_img: int = 300,
        score_thr: float = 1e-6,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("HFTextDetector: no model was named; give one to start from, --start hf:OWNER/NAME")
        family: Any = family_of(plain_values(config), 0)
        if family.asked_by == HEAD:
            raise ConfigError(f"HFTextDetector: {config['model_type']} has a closed head; use vladapt.HFDetector")
        if not isinstance(family, TextFamily):
            raise ConfigError(
                f"HFTextDetector: {config['model_type']} has a class of its own; give the model as --start "
                "hf:OWNER/NAME, which chooses it"
            )
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or preprocessor_of(prepared, family.gives), init_cfg)
        self.family, self.prepared = family, prepared
        self.templates = family.templates if templates is None else templates
        self.max_per_img, self.score_thr = max_per_img, score_thr
        self.model = family.build()
        self.tokenizer = HeldTokenizer() if pretrained is None else pretrained_tokenizer(pretrained)
        if pretrained is not None:
            self.model.load_state_dict(pretrained_weights(pretrained, family, self.model, ()))
            family.check_tokenizer(self.model, self.tokenizer)
        self.take_classes(Vocabulary.of(classes, self.templates))

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Ask for these from now on."""
        self.vocabulary, self.names, self._prompts = vocabulary, vocabulary.names, None

    def extract_feat(self, batch_inputs: Tensor):
        """Not used: transformers' model takes pixels."""
        raise NotImplementedError("HFTextDetector gives no feature maps; call its model")

    def prompts(self) -> list[tuple[Any, Any]]:
        """What images are asked, and what of it does not depend on them; kept until names or weights change."""
        if self._prompts is None:
            prompts = self.family.prompts(self.vocabulary, self.tokenizer)
            self._prompts = [(prompt, self.family.embedded(self.model, prompt)) for prompt in prompts]
        return self._prompts

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None):
        """transformers' outputs per prompt."""
        mask = pixel_mask(batch_inputs, batch_data_samples or ())
        with large_enough(self.family.config["model_type"]):
            return [self.family.outputs(self.model, batch_inputs, mask, *prompt) for prompt in self.prompts()]

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """The weighted parts of the loss, of one prompt for all images.

        Classes that are known not to be in an image are `facts["absent"]` of its metainfo, as `DetectionDataset` has
        them.

        Raises:
            ConfigError: the type is not trained here.
        """
        if self.family.why_not:
            raise ConfigError(f"{self.family.config['model_type']} is not trained here: {self.family.why_not}")
        absent = [one for each in batch_data_samples for one in (each.metainfo.get("facts") or {}).get("absent", ())]
        prompt = self.family.training_prompt(self.vocabulary, self.tokenizer, _present(batch_data_samples), absent)
        targets = placed_in_prompt(self.family.targets(batch_data_samples, tuple(batch_inputs.shape[-2:])), prompt)
        mask = pixel_mask(batch_inputs, batch_data_samples)
        with large_enough(self.family.config["model_type"]):
            outputs = self.family.outputs(self.model, batch_inputs, mask, prompt, labels=targets)
        return self.family.losses(outputs, targets)

    @torch.no_grad()
    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Samples with `pred_instances`: boxes x1, y1, x2, y2 in pixels of the original image (of the input without
        `rescale`), scores in 0..1, labels, the surest first. Boxes end with the image, and
        those outside it are left out."""
        answers = [
            (*self.family.answers(outputs, prompt), prompt)
            for outputs, (prompt, _) in zip(
                self._forward(batch_inputs, batch_data_samples), self.prompts(), strict=True
            )
        ]
        sizes = [tuple(sample.ori_shape[:2] if rescale else sample.img_shape[:2]) for sample in batch_data_samples]
        best = self.family.best_of_prompts(answers, sizes, self.max_per_img)
        best = [self._inside(instances, size) for instances, size in zip(best, sizes, strict=True)]
        return self.add_pred_to_datasample(batch_data_samples, best)

    def _inside(self, instances: InstanceData, size: tuple[int, int]) -> InstanceData:
        """Boxes cut to the image, without those that have no part of it."""
        height, width = size
        instances.bboxes = instances.bboxes.clamp(min=0).minimum(instances.bboxes.new_tensor([width, height] * 2))
        has_area = (instances.bboxes[:, 2:] - instances.bboxes[:, :2] > LEAST_SIDE).all(dim=1)
        return instances[has_area & (instances.scores > self.score_thr)]

    def train(self, mode: bool = True) -> HFTextDetector:
        """Weights that have trained, or been averaged, make other things of texts."""
        self._prompts = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self._prompts = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, fn, recurse: bool = True):
        self._prompts = None
        return super()._apply(fn, recurse)


def _present(samples: Sequence[DetDataSample]) -> Iterator[int]:
    """Classes that a batch shows; a device is waited for when the first is asked for, not before."""
    yield from torch.cat([sample.gt_instances.labels for sample in samples]).unique().tolist()
