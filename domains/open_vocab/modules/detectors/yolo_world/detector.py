"""YOLO-World on RTMDet: one stage, names in the neck and in the head, and a vocabulary that becomes weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import torch
from mmdet.models.detectors import RTMDet
from torch import Tensor

from ......core.contracts import require
from ......registry import MODELS
from ....text_embeddings import TextEmbeddings
from ....vocabulary import NamedClasses, Vocabulary
from .head import YOLOWorldHead
from .neck import RepVLPAN

MOST_NAMES = 80


@MODELS.register_module()
class YOLOWorld(RTMDet, NamedClasses):
    """Boxes for any names by a detector of one stage.

    "YOLO-World: Real-Time Open-Vocabulary Object Detection", 2024, arXiv 2401.17270, on RTMDet (arXiv 2212.07784). The
    text tower is frozen and not part of the model; its embeddings are. In training each image is compared with its own
    names and others drawn for it, `most_names` in all (the paper's online vocabulary). For predictions the names are
    fixed, and are made weights of convolutions (its prompt-then-detect), until the model trains or takes other names.

    Args:
        backbone, train_cfg, test_cfg, options: of mmdet's RTMDet.
        neck: a `RepVLPAN`.
        bbox_head: a `YOLOWorldHead`.
        texts: options of `TextEmbeddings`: `backbone` and `classes` at least.
        most_names: in training, for an image; more where it shows more things.
        reparameterize: whether predictions are made with the names as weights; the same boxes, sooner.

    Raises:
        ConfigError: neck or head of another kind, or an option that is not usable.
    """

    neck: RepVLPAN
    bbox_head: YOLOWorldHead

    def __init__(
        self,
        backbone: Mapping[str, Any],
        neck: Mapping[str, Any],
        bbox_head: Mapping[str, Any],
        texts: Mapping[str, Any],
        *,
        most_names: int = MOST_NAMES,
        reparameterize: bool = True,
        **options: Any,
    ):
        require(most_names >= 1, "most_names", most_names, "give 1 or more")
        for part, kind in ((neck, RepVLPAN), (bbox_head, YOLOWorldHead)):
            given = MODELS.get(part["type"])
            fits = isinstance(given, type) and issubclass(given, kind)
            require(fits, "type", part["type"], f"YOLO-World needs type='vladapt.{kind.__name__}'")
        embeddings = TextEmbeddings(**texts)
        width = {"text_channels": embeddings.embed_dim}
        super().__init__(
            backbone={**backbone},
            neck={**neck, **width},
            bbox_head={**bbox_head, **width, "num_classes": len(embeddings)},
            **options,
        )
        self.texts, self.most_names, self.reparameterize = embeddings, most_names, reparameterize
        self.folded = False
        self.register_load_state_dict_post_hook(_as_loaded)

    def extract_feat(self, batch_inputs: Tensor, texts: Tensor | None = None) -> tuple[Sequence[Tensor], Tensor]:
        """(B, 3, H, W) and texts (B, C, D), by default the model's own -> maps, and texts as the head takes them."""
        return self.neck(self.backbone(batch_inputs), self.texts()[None] if texts is None else texts)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses of the head."""
        texts, samples = self._drawn(batch_data_samples)
        return self.bbox_head.loss(self.extract_feat(batch_inputs, texts), samples)

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """mmdet's, with the names as weights."""
        if self.reparameterize and not self.training:
            self.fold()
        return super().predict(batch_inputs, batch_data_samples, rescale=rescale)

    @torch.no_grad()
    def fold(self) -> None:
        """Make the names weights, as far as images do not change them: all of them where there is no image pooling."""
        if self.folded:
            return
        self.neck.fold(self.texts())
        if self.neck.image_pooling is None:
            self.bbox_head.fold(self.texts())
        self.folded = True

    def unfold(self) -> None:
        """As before `fold`."""
        self.neck.unfold()
        self.bbox_head.unfold()
        self.folded = False

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Other names are other weights."""
        self.unfold()

    def train(self, mode: bool = True) -> YOLOWorld:
        """What trains, or has trained, is not what the names were multiplied with."""
        self.unfold()
        return super().train(mode)

    def _apply(self, fn, recurse: bool = True):
        self.unfold()
        return super()._apply(fn, recurse)

    def _drawn(self, samples: list) -> tuple[Tensor | None, list]:
        """Texts (B, M, D) that each image is compared with, its own and others; samples whose labels number them."""
        most = max(self.most_names, *(len(sample.gt_instances) for sample in samples))
        texts = self.texts()
        if len(texts) <= most:
            return None, samples
        order = torch.rand(len(samples), len(texts), device=texts.device)
        for row, sample in zip(order, samples, strict=True):
            row[sample.gt_instances.labels] += 1
        chosen = order.topk(most).indices  # (B, M)
        return texts[chosen], [_numbered(sample, names) for sample, names in zip(samples, chosen, strict=True)]


def _numbered(sample: Any, chosen: Tensor) -> Any:
    """A copy whose labels are places among the chosen names (M,)."""
    sample = copy(sample)
    objects = copy(sample.gt_instances)
    objects.labels = (objects.labels[:, None] == chosen).int().argmax(dim=1)
    sample.gt_instances = objects
    return sample


def _as_loaded(model: YOLOWorld, _) -> None:
    model.unfold()
