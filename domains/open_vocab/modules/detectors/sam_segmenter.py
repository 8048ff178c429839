"""Outlines of what boxes and points show, by models of the Segment Anything family; their decoder is fine-tuned."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.detectors import BaseDetector
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.structures import InstanceData
from safetensors.torch import load, save
from torch import Tensor

from .....core.contracts import require
from .....core.errors import ConfigError, DataError
from .....core.features import FeatureStore
from .....core.runtime import caching
from .....registry import MODELS
from ...data.prompts import PROMPTS
from ...hub_models.family import family_of
from ...hub_models.loading import pretrained_weights
from ...hub_models.processor import filled, image_processor
from ...hub_models.prompted import Prompt, PromptedFamily
from ...vocabulary import NamedClasses, Vocabulary
from .hf_detector import plain_values, preprocessor_of
from .region_labeller import given_regions

AT_ONCE = 32
"""Prompts that go through the decoder together."""
STABLE = "dynamic_multimask_via_stability"
"""Of SAM 2's decoder: whether it answers by the best of three masks where the single one is not stable."""
FINE_TUNED = "fine_tuned"
"""A weight that says whether the single mask was trained."""
LARGEST_JITTER = 20.0
"""Pixels of the model's input."""


@MODELS.register_module()
class SAMSegmenter(BaseDetector, NamedClasses):
    """A mask for each box of an image, or for points on it; what it shows is called as the box is.

    Trained from annotated boxes to annotated outlines: the mask decoder alone (or matrices of low rank in it), by
    binary cross-entropy and Dice on the single mask of a box. Once it has trained, it always answers by that mask, also
    where the released model would choose among three: of a single point, and in SAM 2 where the single mask is not
    stable. The image encoder is frozen, and its maps are computed once per image and kept in the cache. Boxes are
    shaken as in SAM's training (2304.02643, appendix A): by noise whose standard deviation is a tenth of the side, 20
    pixels at most; a detector's boxes are no better.

    Args:
        config: transformers' configuration of a `sam`, `sam2` or `sam3_tracker` as plain data.
        processor: options of its image processor as plain data.
        classes: names of the boxes in training; nothing depends on them.
        pretrained: folder with the weights to begin with; None for random ones. A run has its weights itself.
        jitter: standard deviation of the noise on boxes in training, of their sides; 0 for none.
        most_objects: objects of an image that a training step sees, drawn at random where there are more.
        loss_bce, loss_dice: weights of the two terms.
        keep_embeddings: keep the encoder's maps of training images in the cache.

    Raises:
        ConfigError: no model was named, one of another kind, or an option out of range.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        processor: Mapping[str, Any],
        classes: Sequence[str] = (),
        pretrained: str | None = None,
        jitter: float = 0.1,
        most_objects: int = 64,
        loss_bce: float = 1.0,
        loss_dice: float = 1.0,
        keep_embeddings: bool = True,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        if not config:
            raise ConfigError("SAMSegmenter: no model was named; give one to start from, --start hf:OWNER/NAME")
        require(0 <= jitter <= 1, "jitter", jitter, "give 0 to 1")
        require(most_objects >= 1, "most_objects", most_objects, "give 1 or more")
        require(loss_bce >= 0 and loss_dice >= 0, "loss_bce, loss_dice", (loss_bce, loss_dice), "give 0 or more")
        family = family_of(plain_values(config), 0)
        if not isinstance(family, PromptedFamily):
            raise ConfigError(
                f"SAMSegmenter: {config['model_type']} is no SAM, so it outlines no boxes; give a sam, sam2 or sam3"
            )
        prepared = image_processor(plain_values(processor))
        super().__init__(data_preprocessor or preprocessor_of(prepared, family.gives), init_cfg)
        self.family, self.padded_size = family, prepared.padded_size
        self.jitter, self.most_objects, self.keep_embeddings = jitter, most_objects, keep_embeddings
        self.weights = {"loss_bce": loss_bce, "loss_dice": loss_dice}
        self.model = family.build()
        self.model.register_buffer(FINE_TUNED, torch.tensor(False))
        if pretrained is not None:
            weights = pretrained_weights(pretrained, family, self.model, ())
            self.model.load_state_dict({FINE_TUNED: torch.tensor(False), **weights})
        for name, parameter in self.model.named_parameters():
            inside = name.startswith(family.trained) and not any(part in name for part in family.idle)
            parameter.requires_grad_(inside)

    names_given_regions = True
    keeps_names = takes_prompts = True
    """Regions are told to it with their classes, which it gives back; they may be points, too."""

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Any names will do: a region is called what it is called."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.model.vision_encoder.eval()
        return self

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """The encoder's maps; in training from the cache, where they are once computed."""
        if self.padded_size is not None:
            batch_inputs = filled(batch_inputs, self.padded_size)
        with torch.no_grad():
            if not (self.training and self.keep_embeddings):
                return self.family.features(self.model, batch_inputs)
            each = [self._kept(pixels) for pixels in batch_inputs]
            return tuple(torch.cat(maps) for maps in zip(*each, strict=True))

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple[Tensor, ...]:
        return self.extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """The two terms, each the mean over all objects of the batch, on all processes.

        Raises:
            ConfigError: the type is not trained here.
        """
        if self.family.why_not:
            raise ConfigError(f"{self.family.config['model_type']} is not trained here: {self.family.why_not}")
        self.model.fine_tuned.fill_(True)
        features = self.extract_feat(batch_inputs)
        terms = [
            self._of_image([maps[place : place + 1] for maps in features], sample, tuple(batch_inputs.shape[-2:]))
            for place, sample in enumerate(batch_data_samples)
        ]
        terms = [each for each in terms if each is not None]
        objects = reduce_mean(batch_inputs.new_tensor(float(sum(len(bce) for bce, _ in terms)))).clamp(min=1.0)
        if not terms:  # no object in the batch: nothing is learned from it
            nothing = sum(p.sum() * 0 for p in self.parameters() if p.requires_grad)
            return dict.fromkeys(self.weights, nothing)
        bce, dice = (torch.cat(each).sum() / objects for each in zip(*terms, strict=True))
        return {"loss_bce": self.weights["loss_bce"] * bce, "loss_dice": self.weights["loss_dice"] * dice}

    @torch.no_grad()
    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Samples with `pred_instances`, one for each region in its order: its box (of points alone the box around the
        mask), its class, the mask at the size of the original image, as score the overlap that the model expects."""
        features, decoder = self.extract_feat(batch_inputs), self.model.mask_decoder
        if self.model.fine_tuned and hasattr(decoder, STABLE):
            setattr(decoder, STABLE, False)
        outlined = [
            self._outlined([maps[place : place + 1] for maps in features], sample)
            for place, sample in enumerate(batch_data_samples)
        ]
        return self.add_pred_to_datasample(batch_data_samples, outlined)

    # training ---------------------------------------------------------------------------------------------------------

    def _of_image(self, features: list[Tensor], sample: DetDataSample, shape: tuple[int, int]):
        """Two terms (n,) of the n objects of an image that have an outline; None where none has."""
        instances = sample.gt_instances
        boxes = given_regions(sample).bboxes
        masks = instances.masks.to_tensor(torch.float32, boxes.device)  # (n, h, w) in the input's pixels
        usable = (masks.flatten(1).any(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).nonzero()[:, 0]
        if len(usable) > self.most_objects:
            usable = usable[torch.randperm(len(usable), device=usable.device)[: self.most_objects]]
        if not len(usable):
            return None
        boxes = self._shaken(boxes[usable])
        logits, _ = self.family.masks(self.model, features, [_box_prompt(box) for box in boxes])
        inside = sample.img_shape[:2]
        targets = shares_of_pixels(masks[usable], self.padded_size or shape, tuple(logits.shape[-2:]), inside)
        logits = logits[:, 0, : targets.shape[1], : targets.shape[2]].float()
        return binary_cross_entropy(logits, targets), dice(logits, targets)

    def _shaken(self, boxes: Tensor) -> Tensor:
        if not self.jitter:
            return boxes
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        noise = torch.randn(boxes.shape, device=boxes.device) * self.jitter * sides
        shaken = boxes + noise.clamp(-LARGEST_JITTER, LARGEST_JITTER)
        low, high = torch.minimum(shaken[:, :2], shaken[:, 2:]), torch.maximum(shaken[:, :2], shaken[:, 2:])
        return torch.cat([low, high], dim=1)

    def _kept(self, pixels: Tensor) -> list[Tensor]:
        """The maps (1, C, h, w) of one image, named in the cache by its pixels, the encoder, and the precision."""
        kind = pixels.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else pixels.dtype
        about = f"{self._encoder} {precision} {tuple(pixels.shape)}".encode()
        name = hashlib.blake2b(about + _bytes(pixels), digest_size=16).hexdigest()
        path = FeatureStore.default_root().parent / "embeddings" / name[:2] / f"{name}.safetensors"
        if path.is_file():
            stored = load(path.read_bytes())
            return [stored[key].to(pixels.device) for key in sorted(stored)]
        maps = [each.contiguous() for each in self.family.features(self.model, pixels[None])]
        with caching(path) as file:
            file.write(save({f"{place:02d}": each.cpu() for place, each in enumerate(maps)}))
        return maps

    @cached_property
    def _encoder(self) -> str:
        """A digest of the frozen encoder, its configuration and its weights, taken when training begins."""
        encoder = self.model.vision_encoder
        digest = hashlib.blake2b(encoder.config.to_json_string(use_diff=False).encode(), digest_size=16)
        for name, value in sorted(encoder.state_dict().items()):
            digest.update(f"{name} {value.dtype}".encode() + _bytes(value))
        return digest.hexdigest()

    # prediction -------------------------------------------------------------------------------------------------------

    def _outlined(self, features: list[Tensor], sample: DetDataSample) -> InstanceData:
        regions = given_regions(sample)
        boxes, size = regions.bboxes.to(features[0].device), tuple(sample.ori_shape[:2])
        scale = boxes.new_tensor(sample.get("scale_factor", (1.0, 1.0)))
        prompts = _prompts_of(sample, boxes, scale)
        masks, scores = [torch.zeros(0, *size, dtype=torch.bool)] * len(prompts), boxes.new_zeros(len(prompts))
        for group in _alike(prompts):
            three = not self.model.fine_tuned and prompts[group[0]].ambiguous
            logits, overlaps = self.family.masks(self.model, features, [prompts[place] for place in group], three)
            best = overlaps.argmax(dim=1)
            for row, place in enumerate(group):
                masks[place] = self._at_size(logits[row, best[row]], sample.img_shape[:2], size)
                scores[place] = overlaps[row, best[row]].clamp(0, 1)
        stacked = torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)
        corners = boxes / scale.repeat(2)
        for place, prompt in enumerate(prompts):
            if prompt.box is None:
                corners[place] = _around(stacked[place]).to(corners)
        return InstanceData(bboxes=corners, scores=scores, labels=regions.labels.to(boxes.device), masks=stacked)

    def _at_size(self, logits: Tensor, inside: Sequence[int], size: tuple[int, int]) -> Tensor:
        """(h, w) logits -> (H, W) bool of the original image, without the padding, as the processors do it."""
        logits = logits[None, None].float()
        if self.padded_size is not None:
            logits = F.interpolate(logits, self.padded_size, mode="bilinear", align_corners=False)
            logits = logits[..., : inside[0], : inside[1]]
        return (F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] > 0).cpu()


def _bytes(values: Tensor) -> bytes:
    """Of any number type; numpy has no bfloat16."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,): of each object the mean over its pixels. Both are (n, h, w), targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").flatten(1).mean(dim=1)


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """(n,) of V-Net (2016, arXiv 1606.04797) with sums of plain values and 1 added to both parts of the fraction."""
    shares, targets = logits.sigmoid().flatten(1), targets.flatten(1)
    return 1 - (2 * (shares * targets).sum(dim=1) + 1) / (shares.sum(dim=1) + targets.sum(dim=1) + 1)


def shares_of_pixels(masks: Tensor, padded: tuple[int, int], grid: tuple[int, int], inside: Sequence[int]) -> Tensor:
    """(n, h, w): which share of each pixel of the decoder's grid an object covers, as far as the image reaches in it.

    Args:
        masks: (n, H, W) in pixels of the input.
        padded: size of the whole input.
        grid: of the decoder's masks.
        inside: size of the image in the input.
    """
    rows, columns = padded[0] // grid[0], padded[1] // grid[1]
    height, width = (-(-side // step) for side, step in zip(inside, (rows, columns), strict=True))
    margins = (0, width * columns - masks.shape[2], 0, height * rows - masks.shape[1])
    shares = [F.avg_pool2d(F.pad(part, margins)[None], (rows, columns))[0] for part in masks.split(AT_ONCE)]
    return torch.cat(shares)


def _prompts_of(sample: DetDataSample, boxes: Tensor, scale: Tensor) -> list[Prompt]:
    """The prompts of an image: its boxes, with the points that `facts` has beside them or in their place.

    Raises:
        DataError: prompts of another number than boxes.
    """
    of_boxes = (sample.get("facts") or {}).get(PROMPTS)
    if of_boxes is None:
        return [_box_prompt(box) for box in boxes]
    if len(of_boxes) != len(boxes):
        raise DataError(f"{sample.get('img_path')}: {len(of_boxes)} prompts for {len(boxes)} boxes; give one for each")
    prompts = []
    for box, about in zip(boxes, of_boxes, strict=True):
        points = boxes.new_tensor(about["points"]).reshape(-1, 2) * scale
        positive = torch.tensor(about["positive"], dtype=torch.long, device=boxes.device)
        prompts.append(Prompt(box if about["box"] else None, points, positive))
    return prompts


def _box_prompt(box: Tensor) -> Prompt:
    return Prompt(box, box.new_zeros(0, 2), box.new_zeros(0, dtype=torch.long))


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Places of prompts that can be asked together, few enough at a time."""
    kinds: dict[tuple[bool, bool], list[int]] = {}
    for place, prompt in enumerate(prompts):
        kinds.setdefault((prompt.box is None, prompt.ambiguous), []).append(place)
    return [places[start : start + AT_ONCE] for places in kinds.values() for start in range(0, len(places), AT_ONCE)]


def _around(mask: Tensor) -> Tensor:
    """(4,) the box around a mask; zeros where it is empty."""
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return torch.zeros(4)
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
