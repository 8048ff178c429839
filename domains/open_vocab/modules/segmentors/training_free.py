"""What segmentors that are not trained share: words, windows over the image, and from scores of words to classes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .....core.backbones import load_backbone
from .....core.contracts import Backbone, require
from .....core.errors import CapabilityError
from ...vocabulary import Classes, text_backbone
from ..backbones.image_part import segmentation_preprocessor
from .queries import Queries, published_templates
from .windows import of_one_size, slide

CLIP_LOGIT_SCALE = 100.0
"""What published scales of logits were chosen beside."""


class TrainingFreeSegmentor(BaseSegmentor):
    """Base: a method gives dense features in the space of text; the rest is here.

    An image is resized to `short_side`, seen by windows, all those of a batch together, and compared with the queries:
    logits are averaged where windows overlap, resized to the original image, softmaxed over all queries; a class has
    the probability of the best of its queries.

    Args:
        backbone: spec of the backbone; it is shared by all models of a process and no part of their weights.
        classes: as for `vladapt.domains.open_vocab.vocabulary.Vocabulary.of`; `set_classes` replaces them.
        templates: as for `Vocabulary.of`; None is the 80 of CLIP's ImageNet classifier, or seven where open_clip,
            which has them, is missing.
        background: name of the class that stands for everything else, if it is among the classes.
        background_words: words that stand for that class, in place of its name; see `Queries`.
        logit_scale: what cosines are multiplied by, for a backbone whose own scale is 100 (CLIP); with another one it
            changes in proportion.
        prob_thd: pixels whose best class has a lower probability are background.
        area_thd: classes with no more than this part of what is not background lose their pixels. None is off.
        crop: side of the windows, pixels of the resized image; 0 sees the image whole. None is the published side
            where the tower is a transformer, and 0 for convolutions, which look at the surroundings of a place anyway:
            one pass does for all windows.
        stride: from one window to the next, pixels.
        short_side: pixels; None takes images as they come.
        windows_per_batch: changes nothing but speed and memory.
        data_preprocessor: None is one that normalises for the backbone.

    Raises:
        ConfigError: an option is out of range, or gives pixels to a background that no class is.
        CapabilityError: the backbone lacks what the method needs, or its text tower.
    """

    align_corners = False
    published_crop: int = 0

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        *,
        templates: str | Sequence[str] | None = None,
        background: str = "background",
        background_words: str | Sequence[str] = (),
        logit_scale: float = 40.0,
        prob_thd: float = 0.0,
        area_thd: float | None = None,
        crop: int | None = None,
        stride: int = 112,
        short_side: int | None = 336,
        windows_per_batch: int = 8,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        known = load_backbone(backbone, device="cpu")  # its towers are not built for this
        for capability in self.needs_of(known):
            known.need(capability)
        super().__init__(data_preprocessor or segmentation_preprocessor(backbone), init_cfg)
        require(crop is None or crop >= 0, "crop", crop, "give a side in pixels, or 0 for the whole image")
        require(stride >= 1, "stride", stride, "give pixels, 1 or more")
        require(short_side is None or short_side >= 1, "short_side", short_side, "give pixels, or None")
        require(windows_per_batch >= 1, "windows_per_batch", windows_per_batch, "give 1 or more")
        require(logit_scale > 0, "logit_scale", logit_scale, "give a positive number")
        require(0 <= prob_thd <= 1, "prob_thd", prob_thd, "give 0 to 1")
        require(area_thd is None or 0 <= area_thd < 1, "area_thd", area_thd, "give 0 to below 1, or None")
        self.backbone_spec, self.logit_scale, self.prob_thd, self.area_thd = backbone, logit_scale, prob_thd, area_thd
        self.crop = crop if crop is not None else self.published_crop if "image_blocks" in known.capabilities else 0
        self.stride, self.short_side, self.windows_per_batch = stride, short_side, windows_per_batch
        self.nothing = nn.Parameter(torch.zeros(0))  # DistributedDataParallel, for tests on several GPUs, asks for one
        chosen = published_templates() if templates is None else templates
        self.queries = Queries(backbone, classes, chosen, background, background_words)
        self.check_background()

    # What a method gives ------------------------------------------------------------------------------------------

    @abstractmethod
    def dense_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w), in the space of text."""

    def needs_of(self, backbone: Backbone) -> tuple[str, ...]:
        """The capabilities that the method needs of its backbone."""
        return ("image_tokens",)

    def patch_multiple(self, device: torch.device) -> int:
        """What the sides of the pixels that `dense_features` is given are multiples of."""
        return self.tower(device).image_stride

    def query_logits(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, Q, h, w): cosines, or what `probabilities` makes probabilities of."""
        return cosine_maps(self.dense_features(pixels), self.queries())

    def probabilities(self, logits: Tensor) -> Tensor:
        """(Q, H, W) -> (Q, H, W), summing to 1 over the queries."""
        return torch.softmax(self.scale(logits.device) * logits, dim=0)

    def refine(self, image: Tensor, logits: Tensor) -> Tensor:
        """Logits (Q, H, W) of an image (3, h, w), changed for the better."""
        return logits

    @property
    def whole_patches(self) -> bool:
        """Whether images are resized to sides of whole patches: those that are not cut into windows."""
        return not self.crop

    # What all of them do ------------------------------------------------------------------------------------------

    def tower(self, device: torch.device) -> Backbone:
        """The backbone on a device; shared in the process."""
        return text_backbone(self.backbone_spec, str(device))

    def scale(self, device: torch.device) -> float:
        """What cosines are multiplied by."""
        return self.logit_scale * float(self.tower(device).logit_scale) / CLIP_LOGIT_SCALE

    def check_background(self) -> None:
        """Raise the ConfigError where an option needs a background class that is not there."""
        if self.prob_thd > 0:
            self.queries.need_background(f"prob_thd={self.prob_thd}")
        if self.area_thd is not None:
            self.queries.need_background(f"area_thd={self.area_thd}")

    @torch.no_grad()
    def extract_feat(self, inputs: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w), seen whole, not normalised."""
        return self.dense_features(inputs)

    @torch.no_grad()
    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict] | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W) scores of the classes, the size of the inputs."""
        return torch.stack(self.class_scores(list(inputs), [tuple(inputs.shape[-2:])] * len(inputs)))

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> list[SegDataSample]:
        """`pred_sem_seg` (1, H, W) and `seg_logits` (C, H, W), class scores, the size of each original image."""
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        images = [_without_padding(image, sample) for image, sample in zip(inputs, samples)]
        sizes = [tuple(sample.get("ori_shape", image.shape[-2:]))[:2] for image, sample in zip(images, samples)]
        for sample, scores in zip(samples, self.class_scores(images, sizes, samples)):
            flips = _flipped(sample)
            scores = scores.flip(flips) if flips else scores
            sample.set_data({"seg_logits": PixelData(data=scores), "pred_sem_seg": PixelData(data=self.choose(scores))})
        return samples

    def _forward(self, inputs: Tensor, data_samples: list[SegDataSample] | None = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict:
        """CapabilityError: there is nothing to train."""
        raise CapabilityError(
            f"{type(self).__name__} has nothing to train; use it as it is (Runner.test, predict), or give the config a "
            "segmentor that learns, as vladapt.DenseCLIPSegmentor"
        )

    def class_scores(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], samples: Sequence[SegDataSample] | None = None
    ) -> list[Tensor]:
        """Images (3, h, w) and the sizes (H, W) wanted -> (C, H, W) each: probabilities of the classes."""
        fitted = [self.resized(image) for image in images]
        scores = []
        for image, logits, size in zip(fitted, self.image_logits(fitted, sizes), sizes):
            logits = self.refine(image, resize_to(logits[None], size)[0])
            scores.append(self._without_small(self.queries.best_of_each(self.probabilities(logits))))
        return scores

    def image_logits(self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """(Q, ...) of each image: by windows the size of the image, seen whole the size wanted at once."""
        if self.crop:
            multiple = self.patch_multiple(images[0].device)
            return slide(
                images,
                self.query_logits,
                crop=self.crop,
                stride=self.stride,
                per_batch=self.windows_per_batch,
                multiple=multiple,
            )
        logits: list[Tensor | None] = [None] * len(images)
        for chosen in of_one_size(range(len(images)), lambda index: images[index].shape, self.windows_per_batch):
            for index, one in zip(chosen, self.query_logits(torch.stack([images[i] for i in chosen]))):
                logits[index] = resize_to(one[None].float(), sizes[index])[0]
        return logits

    def resized(self, image: Tensor) -> Tensor:
        """(3, H, W) with its short side as wanted, the ratio kept; seen whole, both sides to the next whole patch."""
        height, width = image.shape[-2:]
        ratio = self.ratio(height, width)
        step = self.patch_multiple(image.device) if self.whole_patches else 1
        size = tuple(max(step, int(side * ratio / step + 0.5) * step) for side in (height, width))
        if size == (height, width):
            return image
        return F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]

    def ratio(self, height: int, width: int) -> float:
        """By which both sides of an image are multiplied."""
        return 1.0 if self.short_side is None else self.short_side / min(height, width)

    def choose(self, scores: Tensor) -> Tensor:
        """Class scores (C, H, W) -> (1, H, W) class indices."""
        best, chosen = scores.max(dim=0, keepdim=True)
        if self.prob_thd:
            chosen = chosen.masked_fill(best < self.prob_thd, self.queries.need_background("prob_thd"))
        return chosen

    def _without_small(self, scores: Tensor) -> Tensor:
        if self.area_thd is None:
            return scores
        background = self.queries.need_background("area_thd")
        areas = torch.bincount(scores.argmax(dim=0).flatten(), minlength=len(scores))
        areas[background] = 0
        kept = areas > self.area_thd * areas.sum()
        kept[background] = True
        return scores * kept[:, None, None]


def cosine_maps(features: Tensor, words: Tensor) -> Tensor:
    """Features (B, D, h, w) and unit words (Q, D) -> (B, Q, h, w), in float32 under autocast too."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float(), dim=1)
        return torch.einsum("bdhw,qd->bqhw", unit, words.to(unit))


def resize_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), bilinear."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _without_padding(image: Tensor, sample: SegDataSample) -> Tensor:
    left, right, top, bottom = sample.get("img_padding_size", sample.get("padding_size", (0, 0, 0, 0)))
    return image[:, top : image.shape[1] - bottom, left : image.shape[2] - right]


def _flipped(sample: SegDataSample) -> tuple[int, ...]:
    if not sample.get("flip", False):
        return ()
    return {"horizontal": (2,), "vertical": (1,), "diagonal": (1, 2)}[sample.get("flip_direction", "horizontal")]
