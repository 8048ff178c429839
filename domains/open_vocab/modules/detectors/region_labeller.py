"""Detectors that name regions they are given: what is the same in all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from mmdet.models.detectors import BaseDetector
from mmdet.models.layers import multiclass_nms
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor, scale_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from .....core.contracts import Backbone
from .....core.errors import DataError
from ...text_embeddings import TextEmbeddings
from ...vocabulary import Classes, text_backbone
from ..backbones.clip_vision import CLIPVisionBackbone
from ..backbones.image_part import detection_preprocessor


class RegionLabeller(BaseDetector):
    """A detector whose boxes come from outside, each named by the class whose text it fits best.

    The regions of an image are its sample's `proposals`, or its `gt_instances` where there are none, in the pixels of
    the model's input (so that `LoadAnnotations` stands before `Resize` in a pipeline, in tests too). Predictions are
    one for each region, in its order, with the best class and its probability; with `test_cfg` (`score_thr`, `nms`,
    `max_per_img`, as of a Fast R-CNN) every class of a region competes in non-maximum suppression.

    Args:
        backbone: the towers: their normalisation is the default of `data_preprocessor`, their text tower reads names.
        classes: as for `Vocabulary.of`. `set_classes` gives others at any time.
        templates: as for `Vocabulary.of`.
        background: let an embedding of zeros compete with the classes.
        multiply_objectness: score regions by sqrt(probability * the proposal's own score).
        test_cfg: see above; None names each region once.

    Attributes:
        texts: the classes.
        image: the image tower.
    """

    image: CLIPVisionBackbone

    def __init__(
        self,
        backbone: Backbone,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        *,
        background: bool = False,
        multiply_objectness: bool = False,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor or detection_preprocessor(backbone.spec), init_cfg)
        self.texts = TextEmbeddings(backbone.spec, classes, templates)
        self.background, self.multiply_objectness = background, multiply_objectness
        self.test_cfg = None if test_cfg is None else ConfigDict(test_cfg)

    @abstractmethod
    def embed_regions(self, batch_inputs: Tensor, regions: list[InstanceData], samples: list) -> list[Tensor]:
        """Unit features (N_i, D) of the regions of each image."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor | float:
        """What cosines are multiplied by."""

    @property
    def names_given_regions(self) -> bool:
        """Whether predictions are of regions that the samples bring; else the model finds them itself."""
        return True

    def regions_of(self, batch_inputs: Tensor, samples: list[DetDataSample]) -> list[InstanceData]:
        """The regions of each image, `bboxes` (N, 4) among them."""
        return [given_regions(sample) for sample in samples]

    def classify(self, features: Tensor) -> Tensor:
        """(N, D) unit features -> (N, C) probabilities."""
        logits = self.logit_scale * features @ self.texts().to(features).T
        if not self.background:
            return logits.softmax(dim=1)
        return torch.cat([logits, torch.zeros_like(logits[:, :1])], dim=1).softmax(dim=1)[:, :-1]

    def text_features_of(self, regions: InstanceData) -> Tensor:
        """Unit embeddings (N, D) of the regions' `texts`, or of their classes where they have none."""
        if "texts" in regions:
            return self.encode_texts([str(text) for text in regions.texts])
        return self.texts()[regions.labels.to(self.texts().device)]

    @torch.no_grad()
    def encode_texts(self, texts: list[str]) -> Tensor:
        """(N, D) unit rows, by the frozen text tower."""
        return text_backbone(self.texts.spec, str(self.texts().device)).encode_text(texts)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list[DetDataSample]:
        regions = self.regions_of(batch_inputs, batch_data_samples)
        features = self.embed_regions(batch_inputs, regions, batch_data_samples)
        named = [
            self._named(region, self.classify(feature.float()), sample, rescale)
            for region, feature, sample in zip(regions, features, batch_data_samples, strict=True)
        ]
        return self.add_pred_to_datasample(batch_data_samples, named)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        return self.image(batch_inputs)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple[Tensor, ...]:
        """Features of the regions of each image; of the images where there are no samples."""
        if batch_data_samples is None:
            return self.extract_feat(batch_inputs)
        regions = self.regions_of(batch_inputs, batch_data_samples)
        return tuple(self.embed_regions(batch_inputs, regions, batch_data_samples))

    def _named(self, region: InstanceData, scores: Tensor, sample: DetDataSample, rescale: bool) -> InstanceData:
        if self.multiply_objectness and "scores" in region:
            scores = (scores * region.scores.to(scores)[:, None]).sqrt()
        boxes = region.bboxes
        if rescale and len(boxes) and sample.get("scale_factor") is not None:
            boxes = scale_boxes(boxes, [1 / factor for factor in sample.scale_factor])
        if self.test_cfg is None:
            best = scores.max(dim=1)
            return InstanceData(bboxes=boxes, scores=best.values, labels=best.indices)
        padded = torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1)  # the last is taken for the background
        kept, labels = multiclass_nms(
            boxes, padded, self.test_cfg.score_thr, self.test_cfg.nms, self.test_cfg.max_per_img
        )
        return InstanceData(bboxes=kept[:, :4], scores=kept[:, 4], labels=labels)


def given_regions(sample: DetDataSample) -> InstanceData:
    """The sample's `proposals`, else its `gt_instances`; boxes as tensors.

    Raises:
        DataError: it has neither.
    """
    for name in ("proposals", "gt_instances"):
        instances = sample.get(name)
        if instances is not None and "bboxes" in instances:
            regions = InstanceData(**dict(instances.items()))
            regions.bboxes = get_box_tensor(regions.bboxes).float()
            return regions
    raise DataError(
        f"{named(sample)}: no regions to name; give its sample proposals (LoadProposals) or boxes (LoadAnnotations)"
    )


def named(sample: DetDataSample) -> str:
    """An image in a message."""
    return str(sample.get("img_path") or f"image {sample.get('img_id', 'without a name')}")


def image_captions(samples: Sequence[DetDataSample]) -> list[str | None]:
    """Of each image its `caption`, or `text`: a string, or the first of several; None where it has none."""
    captions = [sample.get("caption", None) or sample.get("text", None) for sample in samples]
    return [caption if isinstance(caption, str) or caption is None else str(caption[0]) for caption in captions]


def required_captions(samples: Sequence[DetDataSample]) -> list[str]:
    """One of each image.

    Raises:
        DataError: an image has none.
    """
    captions = image_captions(samples)
    for sample, caption in zip(samples, captions, strict=True):
        if caption is None:
            raise DataError(
                f"{named(sample)}: no caption for the loss of images and texts; give its sample 'caption' or 'text', "
                "or set image_text_weight=0"
            )
    return captions
