"""Segmentors of transformers inside mmseg: trained, asked, saved and exported as every other segmentor here."""

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
from ...hub_models.family import HEAD, MAP, Family, family_of, plain_values
from ...hub_models.loading import pretrained_weights
from ...hub_models.pixel_logits import IGNORED, enlarged_logits
from ...hub_models.processor import ImageProcessor, image_processor, pixel_mask
from ...vocabulary import ClosedNames


@MODELS.register_module()
class HFSegmentor(BaseSegmentor, ClosedNames):
    """A model of transformers, of a type that is listed in `hub_models.families` and gives maps.

    Args:
        config: transformers' configuration as plain data; `model_type` says the type.
        classes: names of the rows of the head.
        processor: options of its image processor as plain data.
        pretrained: folder with the weights to begin with; None for random ones. A run has its weights itself.
        data_preprocessor: by default the processor's mean and std.

    Raises:
        ConfigError: no model was named, or the type gives no maps or has no closed head. DataError: a type that is not
            listed, or weights that do not fit.
    """

    align_corners = False
    family: Any
    """Its type: one of those that give maps."""

    def __init__(
        self,
        config: Mapping[str, Any],
        classes: Sequence[str],
        processor: Mapping[str, Any],
        pretrained: str | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("HFSegmentor: no model was named; give one to start from, --start hf:OWNER/NAME")
        family = family_of(plain_values(config), len(classes))
        if family.gives != MAP and not family.gives_maps:
            raise ConfigError(f"HFSegmentor: {config['model_type']} gives boxes, not maps; use vladapt.HFDetector")
        if family.asked_by != HEAD:
            raise ConfigError(
                f"HFSegmentor: {config['model_type']} has no closed head; give the model as --start hf:OWNER/NAME, "
                "which chooses its segmentor"
            )
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or segmentor_preprocessor(prepared, family), init_cfg)
        self.family, self.names, family.padding = family, tuple(classes), prepared.padding
        self.model = family.build()
        if pretrained is not None:
            self.model.load_state_dict(pretrained_weights(pretrained, family, self.model, self.names))
        self.chosen: tuple[int, ...] | None = None

    def choose_names(self, rows: Sequence[int] | None) -> None:
        """Name pixels of these classes alone, whose places are the numbers from now on; pixels of others have none."""
        self.chosen = None if rows is None else tuple(rows)

    def choose(self, scores: Tensor) -> Tensor:
        """Class scores (C, H, W) of all classes -> (1, H, W) numbers, -1 where a class won that is not asked for."""
        winners = scores.argmax(dim=0, keepdim=True)
        if self.chosen is None:
            return winners
        numbers = torch.full((len(scores),), -1, device=scores.device)
        numbers[list(self.chosen)] = torch.arange(len(self.chosen), device=scores.device)
        return numbers[winners]

    def extract_feat(self, inputs: Tensor):
        """Not used: transformers' model takes pixels."""
        raise NotImplementedError("HFSegmentor gives no feature maps; call its model")

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W), the size of the inputs."""
        return enlarged_logits(self.family.scores(self.model, inputs), inputs.shape[-2:])

    def _forward(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs, [])

    def loss(self, inputs: Tensor, data_samples: Sequence[SegDataSample]) -> dict[str, Tensor]:
        """The weighted parts of transformers' loss.

        Raises:
            ConfigError: the type is not trained here.
        """
        if self.family.why_not:
            raise ConfigError(f"{self.family.config['model_type']} is not trained here: {self.family.why_not}")
        mask = pixel_mask(inputs, data_samples)
        targets = self.family.targets(data_samples, tuple(inputs.shape[-2:]))
        outputs = self.model(**self.family.inputs(inputs, mask), **self.family.truth(targets))
        return self.family.losses(outputs, targets)

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[SegDataSample] | None = None) -> Sequence[SegDataSample]:
        """Samples with `seg_logits` (C, H, W) and `pred_sem_seg` (1, H, W), the size of each original image."""
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        shapes = [tuple(sample.get("img_shape", inputs.shape[-2:]))[:2] for sample in samples]
        batches = [inputs] if len(set(shapes)) == 1 else inputs.split(1)
        scores = [
            of_image
            for batch, (height, width) in zip(batches, shapes)
            for of_image in self.family.scores(self.model, batch[..., :height, :width])
        ]
        for sample, of_image, shape in zip(samples, scores, shapes, strict=True):
            whole = enlarged_logits(of_image[None], tuple(sample.get("ori_shape", shape))[:2])[0]
            sample.set_data({"seg_logits": PixelData(data=whole), "pred_sem_seg": PixelData(data=self.choose(whole))})
        return samples


def segmentor_preprocessor(prepared: ImageProcessor, family: Family) -> dict[str, Any]:
    """Images of a batch are padded to the largest, or to the only size that the model takes."""
    mean, std = prepared.pixel_statistics()
    sides = getattr(family, "sides", None)
    return {
        "type": "mmseg.SegDataPreProcessor",
        "mean": mean,
        "std": std,
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": IGNORED,
        **({"size_divisor": 32} if sides is None else {"size": sides}),
    }
