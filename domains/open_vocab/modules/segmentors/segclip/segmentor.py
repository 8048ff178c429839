"""SegCLIP: groups of patches, learned from images and their captions, that are segments of any classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.models.segmentors import BaseSegmentor
from torch import Tensor

from ......core.backbones import load_backbone
from ......core.contracts import Backbone, require
from ......core.errors import ConfigError, DataError
from ......core.registry import build_loss
from ......registry import MODELS
from ....text_embeddings import KeptTexts
from ....vocabulary import Classes, NamedClasses, Vocabulary, encode_classes
from ...backbones.image_part import segmentation_preprocessor
from ...losses.masked_decoder import MaskedDecoder, grid_positions, line_positions, pixel_loss, word_loss
from ..windows import slide
from .group import (
    SuperpixelKL,
    caption_tokens,
    group_scores,
    paint,
    part_of_captions,
    with_background,
)
from .tower import GroupingTower

WEIGHTS = {"contrastive": 1.0, "superpixel": 1.0, "reconstruction": 1.0, "text_reconstruction": 0.0}
HIGHEST_SCALE = 100.0
NO_SUPERPIXEL = -1


@MODELS.register_module()
class SegCLIP(KeptTexts, BaseSegmentor, NamedClasses):
    """SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022,
    arXiv 2211.14813).

    Trained on captions, not masks: `loss` reads of each sample's metainfo `caption`, or one at random of `captions`,
    and `superpixels`, a label map (H, W) of the image as it comes in (transform `vladapt.Superpixels`). Both towers are
    children of the model and train with it; class names are encoded by the text tower as it is by then.

    Args:
        backbone: spec of a CLIP with vision transformer.
        classes: C names, as for `Vocabulary.of`; they play no part in training.
        templates: as for `Vocabulary.of`.
        tower: options of `GroupingTower`: first_blocks, groups, cross_layers, heads, tau.
        weights: of the losses, 0 leaves one out: contrastive 1, superpixel 1, reconstruction 1 and, as in the
            published training, text_reconstruction 0.
        patch_mask: share of the patches that are hidden for the reconstruction, above 0 to below 1.
        word_mask: share of the words, likewise.
        decoder: options of `MaskedDecoder`: width, depth, heads.
        max_words: tokens of a caption that are read, with start and end.
        train_patches: whether the first convolution and the positions train; not so as released.
        background: name of the class that stands for all else; where it is among the classes no text is read for it.
        background_threshold: pixels whose best class scores less are background (published for Context: 0.25).
        likely: classes that an image may have at most.
        crop, stride: side of windows at prediction, and from one to the next, pixels; None is the tower's own size.
        data_preprocessor: None is the one that the tower's pixels need.

    Raises:
        CapabilityError: the towers lack blocks. ConfigError: an option is not usable.
    """

    align_corners = False

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        templates: str | Sequence[str] = "photo",
        tower: Mapping[str, Any] | None = None,
        weights: Mapping[str, float] | None = None,
        patch_mask: float = 0.75,
        word_mask: float = 0.15,
        decoder: Mapping[str, Any] | None = None,
        max_words: int = 32,
        train_patches: bool = False,
        background: str = "background",
        background_threshold: float = 0.95,
        likely: int = 5,
        crop: int | None = None,
        stride: int | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ):
        super().__init__(data_preprocessor or segmentation_preprocessor(backbone), init_cfg)
        self.weights = _checked_weights(weights or {})
        for name, share in (("patch_mask", patch_mask), ("word_mask", word_mask)):
            require(0 < share < 1, name, share, "give a share above 0 and below 1")
        require(max_words >= 3, "max_words", max_words, "give 3 or more: start, a word, end")
        require(likely >= 1, "likely", likely, "give 1 or more")
        require(0 <= background_threshold <= 1, "background_threshold", background_threshold, "give 0 to 1")
        self.patch_mask, self.word_mask, self.max_words = patch_mask, word_mask, max_words
        self.background, self.background_threshold, self.likely = background, background_threshold, likely
        self.templates, self._kept = templates, None
        self._hold(load_backbone(backbone, device="cpu"), train_patches)
        self.crop = crop or self.tower_size
        self.stride = stride or self.crop
        self.tower = GroupingTower(self.backbone, reconstructs=bool(self.weights["reconstruction"]), **(tower or {}))
        self._add_decoders(decoder or {})
        self.contrast, self.superpixels = build_loss("clip"), SuperpixelKL()
        self.take_classes(Vocabulary.of(classes, templates))

    # What it is made of -------------------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """Both towers, over this model's own parameters."""
        return self._held[0]

    @property
    def tower_size(self) -> int:
        return self.backbone.image_size

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.vocabulary)

    def _hold(self, backbone: Backbone, train_patches: bool) -> None:
        backbone.need("image_blocks")
        backbone.need("prompt")
        self._held = (backbone,)
        self.clip = backbone.model.requires_grad_(True)
        if not train_patches:
            first = backbone.image_positions()
            first.patches.requires_grad_(False)
            getattr(first.owner, first.name).requires_grad_(False)

    def _add_decoders(self, options: Mapping[str, Any]) -> None:
        if self.weights["reconstruction"]:
            patch = self.backbone.image_stride
            self.patch_decoder = MaskedDecoder(self.tower.width, 3 * patch * patch, **options)
        if self.weights["text_reconstruction"]:
            self.word_decoder = MaskedDecoder(self.backbone.embed_dim, self.backbone.vocab_size, **options)

    # Training -----------------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: Sequence) -> dict[str, Tensor]:
        """`loss_*` of those with a weight, times it.

        Raises:
            DataError: a sample has no caption, or no superpixels where they are needed.
        """
        seen = self.tower(inputs)
        tokens = caption_tokens(self.backbone, [_caption(sample) for sample in data_samples], self.max_words)
        terms = {
            "contrastive": lambda: self._contrastive(seen.image, tokens),
            "superpixel": lambda: self.superpixels(seen.gathered.hard, _superpixels(data_samples, inputs, seen.grid)),
            "reconstruction": lambda: self._patch_reconstruction(inputs, seen.grid),
            "text_reconstruction": lambda: self._word_reconstruction(tokens),
        }
        return {f"loss_{name}": self.weights[name] * term() for name, term in terms.items() if self.weights[name]}

    def _contrastive(self, image: Tensor, tokens: Tensor) -> Tensor:
        out = {
            "image_features": F.normalize(image.float(), dim=-1),
            "text_features": self.backbone.encode_text(tokens),
            "logit_scale": self.backbone.logit_scale.clamp(max=HIGHEST_SCALE),
        }
        return self.contrast(out)["loss"]

    def _patch_reconstruction(self, inputs: Tensor, grid: tuple[int, int]) -> Tensor:
        seen, kept = self.tower.see_part(inputs, self.patch_mask)
        positions = grid_positions(self.patch_decoder.width, grid, inputs.device)
        guess = self.patch_decoder(seen, kept, positions, first=seen.mean(dim=1))
        return pixel_loss(guess, inputs, kept.hidden, grid)

    def _word_reconstruction(self, tokens: Tensor) -> Tensor:
        seen, kept, asked = part_of_captions(self.backbone, tokens, self.word_mask)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        positions = line_positions(self.word_decoder.width, places)
        guess = self.word_decoder(seen, kept, positions, ignored=~self.backbone.token_mask(tokens))
        return word_loss(guess, tokens, asked)

    # Prediction ---------------------------------------------------------------------------------------------------

    def predict(self, inputs: Tensor, data_samples: Sequence | None = None) -> list:
        """`seg_logits`, scores in 0..1, and `pred_sem_seg` of each image."""
        scores = self.encode_decode(inputs)
        if self.num_classes > 1:
            return self.postprocess_result(scores, data_samples)
        # One channel is a yes or no to mmseg; here the one class has every pixel.
        samples = self.postprocess_result(torch.cat([scores, scores - 1], dim=1), data_samples)
        for sample in samples:
            sample.seg_logits.data = sample.seg_logits.data[:1]
        return samples

    def encode_decode(self, inputs: Tensor, batch_img_metas: list | None = None) -> Tensor:
        """(B, 3, H, W) -> (B, C, H, W)."""
        painted = slide(
            inputs,
            self._paint,
            crop=self.crop,
            stride=self.stride,
            per_batch=len(inputs),
            multiple=self.backbone.image_stride,
        )
        index = self._background_index()
        if index is not None:
            painted = [with_background(scores, index, self.background_threshold) for scores in painted]
        return torch.stack(painted)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """(B, G, D) features of the groups."""
        return self.tower(inputs).groups

    def _forward(self, inputs: Tensor, data_samples: Sequence | None = None) -> Tensor:
        return self.encode_decode(inputs)

    def _paint(self, pixels: Tensor) -> Tensor:
        seen = self.tower(pixels)
        scale = self.backbone.logit_scale.clamp(max=HIGHEST_SCALE)
        scores = group_scores(seen.groups, seen.image, self._texts(), scale, self.likely)
        return paint(scores, seen.gathered.soft, seen.grid, pixels.shape[-2:])

    # Classes ------------------------------------------------------------------------------------------------------

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the names.

        Raises:
            ConfigError: there is the background and nothing else.
        """
        self.vocabulary, self._kept = vocabulary, None
        if len(vocabulary) == 1 and self._background_index() is not None:
            raise ConfigError("classes: there is only the background; name what is to be found")

    def _background_index(self) -> int | None:
        return self.vocabulary.position(self.background)

    def _texts(self) -> Tensor:
        """(C, D), without the background; kept until the towers train again."""
        device = self.backbone.device
        if self._kept is None or self._kept.device != device or self.training:
            with torch.no_grad():
                self._kept = encode_classes(self.vocabulary.without(self._background_index()), self.backbone)
        return self._kept

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self.backbone.device = next(self.clip.parameters()).device
        return self


def _checked_weights(given: Mapping[str, float]) -> dict[str, float]:
    weights = {**WEIGHTS, **given}
    for name, weight in weights.items():
        require(name in WEIGHTS, "weights", name, f"there are {', '.join(WEIGHTS)}")
        require(weight >= 0, f"weights.{name}", weight, "give 0 or more")
    if not any(weights.values()):
        raise ConfigError("option weights: all are 0; give one above 0")
    return weights


def _caption(sample: Any) -> str:
    caption = sample.metainfo.get("caption", sample.metainfo.get("captions"))
    texts = [caption] if isinstance(caption, str) else list(caption or ())
    if not texts:
        raise DataError(
            f"{_named(sample)}: it has no caption; give `caption` or `captions` to each sample, and name them in "
            "meta_keys of PackSegInputs"
        )
    return texts[int(torch.randint(len(texts), ()))] if len(texts) > 1 else texts[0]


def _named(sample: Any) -> str:
    return str(sample.metainfo.get("img_path", "a training image"))


def _superpixels(samples: Sequence, inputs: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w): the label in the middle of each patch."""
    height, width = inputs.shape[-2:]
    rows, columns = (((np.arange(n) + 0.5) * size / n).astype(int) for n, size in zip(grid, (height, width)))
    maps = []
    for sample in samples:
        labels = sample.metainfo.get("superpixels")
        if labels is None:
            raise DataError(
                f"{_named(sample)}: it has no superpixels; put vladapt.Superpixels into the pipeline and 'superpixels' "
                "into meta_keys of PackSegInputs, or set weights.superpixel=0"
            )
        labels = np.asarray(labels)
        missing = ((0, max(0, height - labels.shape[0])), (0, max(0, width - labels.shape[1])))
        maps.append(np.pad(labels.astype(np.int64), missing, constant_values=NO_SUPERPIXEL)[np.ix_(rows, columns)])
    return torch.as_tensor(np.stack(maps), device=inputs.device).flatten(1)
