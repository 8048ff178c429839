"""Types whose queries each give a mask and a class: MaskFormer and what came of it, for maps and for objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MethodType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .family import MASKS, Family
from .pixel_logits import IGNORED, enlarged_logits, mean_over_processes, padded, without_idle

AT_ONCE = 8
"""Masks that are enlarged to an image together."""
CLASSES = "loss_cross_entropy"
"""Names of the parts of the loss that begin so are of classes; the others are of masks."""


class MaskQueries(Family):
    """Base of types with queries.

    Queries are matched with true masks, and the loss is transformers' own: the cross entropy of classes, of which no
    object is one, and of the matched masks the cross entropy (focal loss in MaskFormer) and Dice, of every layer of the
    decoder. Mask2Former and EoMT compare masks in points that torch's generator draws.

    Class attributes:
        raster: height and width to which masks are enlarged before they are looked at; None looks at them as they are.
        best_only: whether a query gives one object, of its best class, or is asked with every class.
        cut_at_image: whether masks are cut at the size of the image; else in the raster.
        any_size, idle: as of `PixelLogits`.
    """

    gives = MASKS
    gives_maps: ClassVar[bool] = True
    head: tuple[str, ...] = (r"class_predictor\.(weight|bias)", r"criterion\.empty_weight")
    best_only: ClassVar[bool] = False
    cut_at_image: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    idle: ClassVar[tuple[str, ...]] = ()

    @property
    def raster(self) -> tuple[int, int] | None:
        return None

    def build(self) -> nn.Module:
        """With masks counted over all processes; transformers asks accelerate, which is not used here."""
        model = self.built(_with_parts(self.class_of_model()))
        model.criterion.get_num_masks = MethodType(_masks_per_process, model.criterion)
        return without_idle(model, self.idle)

    def settings(self) -> dict[str, Any]:
        return {}

    # the way of a batch -----------------------------------------------------------------------------------------------

    def target(self, sample: Any, shape: tuple[int, int]) -> dict[str, Tensor]:
        """class_labels (n,) and masks (n, H, W) of one image: of a map, a mask per class that it shows; of objects,
        those that cover a pixel. Ignored pixels are in no mask."""
        if "gt_sem_seg" in sample:
            labels = padded(sample.gt_sem_seg.data[0].long(), shape)
            there = labels.unique()
            there = there[there != IGNORED]
            return {"class_labels": there, "masks": (labels[None] == there[:, None, None]).float()}
        instances = sample.gt_instances
        masks = instances.masks.to_tensor(torch.float32, instances.labels.device)  # (n, h, w)
        masks = F.pad(masks, (0, shape[1] - masks.shape[-1], 0, shape[0] - masks.shape[-2]))
        there = masks.flatten(1).any(dim=1)
        return {"class_labels": instances.labels[there], "masks": masks[there]}

    def truth(self, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Keywords of the model's `forward` that make it compute the loss."""
        return {
            "mask_labels": [target["masks"] for target in targets],
            "class_labels": [target["class_labels"] for target in targets],
        }

    def losses(self, outputs: Any, targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The weighted parts; on several processes, each is the mean over the masks, or the queries, of all."""
        queries = outputs.class_queries_logits.shape[1]
        matched = sum(min(len(target["class_labels"]), queries) for target in targets)
        unmatched = len(targets) * queries - matched
        weight = torch.tensor(matched + self._no_object * unmatched, device=outputs.class_queries_logits.device)
        share = weight / mean_over_processes(weight.clone())
        return {name: part * share if name.startswith(CLASSES) else part for name, part in outputs.loss_dict.items()}

    @property
    def _no_object(self) -> float:
        """The weight of the class of no object."""
        return float(self.stated.no_object_weight)

    def scores(self, model: nn.Module, pixels: Tensor) -> Tensor:
        """(B, C, h, w) of images without padding: each query's mask times its probability of the class, summed. Where
        they are enlarged to an image, the largest is the class, as the processors choose it."""
        return self.of_classes(model(**self.inputs(pixels, torch.ones_like(pixels[:, 0], dtype=torch.long))))

    def of_classes(self, outputs: Any) -> Tensor:
        """(B, C, h, w) in the raster."""
        of_classes = outputs.class_queries_logits.softmax(dim=-1)[..., :-1]  # (B, Q, C)
        return torch.einsum("bqc,bqhw->bchw", of_classes, self._masks(outputs).sigmoid())

    def found(self, outputs, sizes, chosen=None):
        """Objects whose mask covers a pixel, scored by class and by mask, with the boxes of their masks."""
        of_classes = outputs.class_queries_logits.softmax(dim=-1)[..., :-1]
        of_classes = of_classes if chosen is None else of_classes[..., chosen]
        rows = zip(of_classes, self._masks(outputs), sizes, strict=True)
        return [self._objects(scores, masks, tuple(size)) for scores, masks, size in rows]

    def raw(self, outputs):
        return {"logits": outputs.class_queries_logits, "masks": outputs.masks_queries_logits}

    def masks(self, outputs: Any, image: int, queries: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, H, W) bool of some queries of one image, at its size."""
        return self._outlined(self._masks(outputs)[image, queries], size)[0]

    def _masks(self, outputs: Any) -> Tensor:
        masks = outputs.masks_queries_logits
        return masks if self.raster is None else enlarged_logits(masks, self.raster)  # (B, Q, h, w)

    def _objects(self, of_classes: Tensor, logits: Tensor, size: tuple[int, int]) -> InstanceData:
        """Of one image.

        Args:
            of_classes: (Q, C) probabilities.
            logits: (Q, h, w) of masks.
        """
        if self.best_only:
            scores, labels = of_classes.max(dim=1)
            queries = torch.arange(len(of_classes), device=logits.device)
        else:
            scores, places = of_classes.flatten().topk(len(of_classes), sorted=False)
            labels, queries = places % of_classes.shape[1], places // of_classes.shape[1]
        parts = [self._outlined(part, size) for part in logits.split(AT_ONCE)]
        boxes = torch.cat([_boxes_of(masks) for masks, _ in parts])[queries]
        scores = scores * torch.cat([sureness for _, sureness in parts])[queries]
        there = boxes[:, 2] > boxes[:, 0]
        return InstanceData(bboxes=boxes, scores=scores, labels=labels, queries=queries)[there]

    def _outlined(self, logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """(n, h, w) logits -> (n, H, W) masks at the image's size, and (n,) mean probabilities inside them."""
        logits = self.at_size(logits, size)
        inside = logits > 0
        sureness = (logits.sigmoid() * inside).flatten(1).sum(dim=1) / (inside.flatten(1).sum(dim=1) + 1e-6)
        if inside.shape[-2:] != size:
            inside = F.interpolate(inside[None].to(torch.uint8), size=size, mode="nearest")[0].bool()
        return inside, sureness

    def at_size(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits (n, h, w) of masks, as they are cut at 0 and scored; what is cut is then brought to `size`."""
        return logits


def _boxes_of(masks: Tensor) -> Tensor:
    """(n, H, W) -> (n, 4) edges x0, y0, x1, y1 of the pixels that a mask covers; all 0 of one that covers none."""
    edges = []
    for axis in (1, 2):
        covered = masks.any(dim=axis).int()  # (n, W), then (n, H)
        last = covered.shape[1] - covered.flip(1).argmax(dim=1)
        edges.append(torch.stack([covered.argmax(dim=1), last]) * covered.any(dim=1))
    (left, right), (top, bottom) = edges
    return torch.stack([left, top, right, bottom], dim=1).float()


def _masks_per_process(criterion: nn.Module, class_labels: Sequence[Tensor], device: torch.device) -> Tensor:
    """What losses of masks are divided by: the mean number of masks over all processes, 1 at least."""
    count = torch.tensor(float(sum(map(len, class_labels))), device=device)
    return mean_over_processes(count).clamp(min=1)


@cache
def _with_parts(base: type[nn.Module]) -> type[nn.Module]:
    """A model of transformers whose outputs have `loss_dict`: the weighted parts of its loss, those of earlier layers
    with the layer's number."""

    class WithParts(base):
        def forward(self, *args, **kwargs):
            layers: list[dict[str, Tensor]] = []
            hook = self.criterion.register_forward_hook(lambda module, given, made: layers.append(made))
            try:
                outputs = super().forward(*args, **kwargs)  # weighs the parts in place
            finally:
                hook.remove()
            last = len(layers) - 1
            outputs.loss_dict = {
                name if layer == last else f"{name}_{layer}": part
                for layer, parts in enumerate(layers)
                for name, part in parts.items()
            }
            return outputs

    WithParts.__name__ = base.__name__
    return WithParts
