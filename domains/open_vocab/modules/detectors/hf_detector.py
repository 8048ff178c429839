"""Detectors of transformers inside mmdet: trained, asked, saved and exported as every other detector here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from torch import Tensor

from .....core.errors import ConfigError
from .....registry import MODELS
from ...hub_models.family import BOXES, HEAD, MAP, MASKS, family_of, large_enough, plain_values
from ...hub_models.loading import pretrained_weights
from ...hub_models.processor import ImageProcessor, filled, image_processor, pixel_mask
from ...vocabulary import ClosedNames

LEAST_SCORE = {BOXES: 0.0, MASKS: 0.01}


@MODELS.register_module()
class HFDetector(BaseDetector, ClosedNames):
    """A model of transformers, of a type that is listed in `hub_models.families`.

    Args:
        config: transformers' configuration as plain data; `model_type` says the type.
        classes: names of the rows of the head.
        processor: options of its image processor as plain data.
        pretrained: folder with the weights to begin with; None for random ones. A run has its weights itself.
        score_thr: least score of a detection; by default 0, and 0.01 of types with masks, each of which is as large as
            its image.
        data_preprocessor: by default the processor's mean and std.

    Raises:
        ConfigError: no model was named, or the type gives no boxes or has no closed head. DataError: a type that is not
            listed, or weights that do not fit.
    """

    family: Any
    """Its type: one with a closed head that gives boxes, or boxes and masks."""

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Sequence[str],
        processor: Mapping[str, Any],
        pretrained: str | None = None,
        score_thr: float | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("HFDetector: no model was named; give one to start from, --start hf:OWNER/NAME")
        family = family_of(plain_values(config), len(classes))
        if family.gives == MAP:
            raise ConfigError(f"HFDetector: {config['model_type']} gives a map, not boxes; use vladapt.HFSegmentor")
        if family.asked_by != HEAD:
            raise ConfigError(
                f"HFDetector: {config['model_type']} has no closed head; give the model as --start hf:OWNER/NAME, "
                "which chooses its detector"
            )
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or preprocessor_of(prepared, family.gives), init_cfg)
        self.family, self.names = family, tuple(classes)
        self.score_thr = LEAST_SCORE[family.gives] if score_thr is None else score_thr
        self.padded_size, family.padding = prepared.padded_size, prepared.padding
        self.model = family.build()
        if pretrained is not None:
            self.model.load_state_dict(pretrained_weights(pretrained, family, self.model, self.names))
        self.chosen: tuple[int, ...] | None = None

    def choose_names(self, rows: Sequence[int] | None) -> None:
        """Look for some of the head's classes alone, whose places are the labels from now on; None for all."""
        self.chosen = None if rows is None else tuple(rows)

    def extract_feat(self, batch_inputs: Tensor):
        """Not used: transformers' model takes pixels."""
        raise NotImplementedError("HFDetector gives no feature maps; call its model")

    def _forward(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample] | None = None):
        """transformers' outputs."""
        with large_enough(self.family.config["model_type"]):
            return self.model(**self._inputs(batch_inputs, batch_data_samples or ()))

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Tensor]:
        """The weighted parts of transformers' loss.

        Raises:
            ConfigError: the type is not trained here.
        """
        if self.family.why_not:
            raise ConfigError(f"{self.family.config['model_type']} is not trained here: {self.family.why_not}")
        inputs = self._inputs(batch_inputs, batch_data_samples)
        targets = self.family.targets(batch_data_samples, tuple(batch_inputs.shape[-2:]))
        with large_enough(self.family.config["model_type"]):
            outputs = self.model(**inputs, **self.family.truth(targets))
        parts = self.family.losses(outputs, targets)
        return {name if "loss" in name else f"loss_{name}": part for name, part in parts.items()}

    @torch.no_grad()
    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Samples with `pred_instances`: boxes x1, y1, x2, y2 in pixels of the original image (of the input without
        `rescale`), scores in 0..1, labels, and masks of types that have them."""
        outputs = self._forward(batch_inputs, batch_data_samples)
        sizes = [tuple(sample.ori_shape[:2] if rescale else sample.img_shape[:2]) for sample in batch_data_samples]
        chosen = None if self.chosen is None else torch.tensor(self.chosen, device=batch_inputs.device)
        found = self.family.found(outputs, sizes, chosen)
        found = [instances[instances.scores >= self.score_thr] for instances in found]
        if self.family.gives == MASKS:
            for image, (instances, size) in enumerate(zip(found, sizes, strict=True)):
                instances.masks = self.family.masks(outputs, image, instances.queries, size)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _inputs(self, pixels: Tensor, samples: Sequence[DetDataSample]) -> dict[str, Any]:
        """Keywords of the model: pixels, and where in them images are."""
        mask = pixel_mask(pixels, samples)
        if self.padded_size is not None:
            pixels, mask = filled(pixels, self.padded_size), filled(mask, self.padded_size)
        return self.family.inputs(pixels, mask)


@MODELS.register_module()
class RescaledPixels(DetDataPreprocessor):
    """Values times 1 / `std`, as processors without a mean compute it: a division differs in the last bit.

    Args:
        mean, std: of values in 0..255; mean is 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **options: Any):
        super().__init__(**options)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.register_buffer("factor", torch.tensor([1 / value for value in std]).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Of mmdet."""
        prepared = super().forward(data, training)
        return {**prepared, "inputs": prepared["inputs"] * self.factor}


def preprocessor_of(prepared: ImageProcessor, gives: str) -> dict[str, Any]:
    mean, std = prepared.pixel_statistics()
    return {
        "type": "vladapt.RescaledPixels" if prepared.only_rescales else "mmdet.DetDataPreprocessor",
        "mean": mean,
        "std": std,
        "bgr_to_rgb": True,
        "pad_mask": gives == MASKS,
    }
