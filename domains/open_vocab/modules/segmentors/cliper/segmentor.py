"""CLIPer: the attention of early layers gives the last one its places, and their features join in.

"CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation" (2024,
arXiv 2411.13836).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from torch import Tensor

from ......core.backbones import load_backbone
from ......core.contracts import Backbone, require
from ......core.errors import CapabilityError
from ......registry import MODELS
from ....vocabulary import text_backbone
from ..attention_heads import TOKENS, as_map, proxy_attention, proxy_features, renormalize
from ..training_free import TrainingFreeSegmentor, resize_to
from ..windows import place_windows
from .features import ATTENTIONS, FUSED, NEEDED, SMALL, layer_features, read_maps, spread_by_affinity, spread_by_maps

REFINEMENTS = ("none", "proxy", "diffusion")
WITH_BACKGROUND = 0.3
"""Both thresholds where there is a background, as published for COCO's objects."""


@MODELS.register_module()
class CLIPer(TrainingFreeSegmentor):
    """`vladapt.CLIPer`.

    Each layer's features are compared with the words of the classes, of the background, and the mean of those of the
    classes; the mean over layers is joined by the chosen layer's maps, spread along the fused attention. A class takes
    part where its score passes `class_thd`; pixels where no class passes `bg_thd` are background.

    Args:
        attention: of the last layer: "fused", or for comparison "q-q", "k-k", "v-v", "vanilla" or "identity".
        fuse: take the mean over all layers in; without it only the chosen one counts.
        select_layer: whose maps are spread along the attention; -1, or -2 as published for ViT-L/14.
        attention_thd: of those maps, what is below this part of their most is dropped first; diffusion maps likewise.
        class_thd, bg_thd: see above; None is 0.3 for both where the vocabulary has a background, else off. With
            bg_thd=0 the background scores (1 - best)^2.
        normalize: stretch each class's map to 0..1 before the thresholds.
        refine: fine compensation: "none"; "proxy", by how alike the features of `proxy` are; or "diffusion".
        proxy, proxy_layer, beta, gamma: as of `ProxyCLIP`.
        maps: folder of ready maps for refine="diffusion", NAME.safetensors per image, with a tensor "maps" (K, N, N).
        released: the arithmetic in place of the released code; see `layer_features`.
        **options: of `TrainingFreeSegmentor`. Windows of 224 every 112 pixels join the whole image half and half.

    Raises:
        ConfigError: an option is out of range, or windows and patches do not fit.
        CapabilityError: the image tower has fewer than two transformer blocks, or there are no diffusion maps.
    """

    published_crop = 224

    def __init__(
        self,
        backbone: str,
        classes,
        *,
        attention: str = FUSED,
        fuse: bool = True,
        select_layer: int = -1,
        attention_thd: float = 0.2,
        class_thd: float | None = None,
        bg_thd: float | None = None,
        normalize: bool = False,
        refine: str = "none",
        proxy: str | None = None,
        proxy_layer: int | str = -1,
        beta: float = 1.2,
        gamma: float = 3.0,
        maps: str | Path | None = None,
        released: bool = False,
        logit_scale: float = 50.0,
        **options,
    ):
        known = (FUSED, *ATTENTIONS)
        require(attention in known, "attention", attention, f"give one of {', '.join(known)}")
        require(refine in REFINEMENTS, "refine", refine, f"give one of {', '.join(REFINEMENTS)}")
        wanted = refine == "proxy"
        require((proxy is not None) == wanted, "proxy", proxy, "give a backbone with refine='proxy', and only then")
        require(0 <= attention_thd < 1, "attention_thd", attention_thd, "give 0 to below 1")
        for option, value in (("class_thd", class_thd), ("bg_thd", bg_thd)):
            require(value is None or value >= 0, option, value, "give 0 or more; scores are about 0 to 1")
        if refine == "diffusion" and maps is None:
            raise CapabilityError(NEEDED)
        if proxy is not None:
            load_backbone(proxy, device="cpu").need("image_tokens" if proxy_layer == TOKENS else "feature_maps")
        super().__init__(backbone, classes, logit_scale=logit_scale, **options)
        self.attention, self.fuse, self.select_layer, self.released = attention, fuse, select_layer, released
        self.attention_thd, self.class_thd, self.bg_thd, self.normalize = attention_thd, class_thd, bg_thd, normalize
        self.refinement, self.maps = refine, maps
        self.proxy_spec, self.proxy_layer, self.beta, self.gamma = proxy, proxy_layer, beta, gamma
        self._check_thresholds()

    def needs_of(self, backbone: Backbone) -> tuple[str, ...]:
        return ("image_blocks",)

    @property
    def whole_patches(self) -> bool:
        return True

    def dense_features(self, pixels: Tensor) -> Tensor:
        return as_map(self._patches(pixels)[0][-1], self.tower(pixels.device).image_grid(pixels))

    def class_scores(
        self, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]], samples: Sequence[SegDataSample] | None = None
    ) -> list[Tensor]:
        """As of the base; scores that the thresholds left, of the background what it takes to be chosen."""
        paths = [None] * len(images) if samples is None else [sample.get("img_path") for sample in samples]
        return [self._scores(self.resized(image), size, path) for image, size, path in zip(images, sizes, paths)]

    # One image --------------------------------------------------------------------------------------------------

    def _scores(self, image: Tensor, size: tuple[int, int], path: str | None) -> Tensor:
        coarse = self._coarse(image)  # (F, h, w), F classes that are not the background
        fine = self._compensated(image, coarse, path)
        score = (coarse.amax(dim=(1, 2)) + fine.amax(dim=(1, 2))) / 2  # (F,)
        fine = resize_to(fine[None], size)[0]
        fine = fine / (fine.amax(dim=(1, 2), keepdim=True) + SMALL) * score[:, None, None]
        return self._without_small(self._with_background(fine, score))

    def _coarse(self, image: Tensor) -> Tensor:
        texts, foreground = self._texts(image)
        features, weights = self._patches(image[None])
        grid = self.tower(image.device).image_grid(image[None])
        logits = self._compare(features[:, 0], texts).transpose(1, 2).unflatten(2, grid)  # (L, K, h, w)
        layers = logits.softmax(dim=1)[:, : sum(foreground)]
        if self.crop:
            layers = (layers + self._by_windows(image, texts, grid).softmax(dim=1)[:, : sum(foreground)]) / 2
        chosen = layers[self.select_layer]  # (F', h, w)
        chosen = chosen * (chosen >= self.attention_thd * chosen.amax(dim=(1, 2), keepdim=True))
        spread = (chosen.flatten(1) @ weights[0]).unflatten(1, grid)
        scores = spread + layers.mean(dim=0) if self.fuse else spread
        return torch.stack([several.amax(dim=0) for several in scores.split(foreground)])

    def _by_windows(self, image: Tensor, texts: Tensor, grid: tuple[int, int]) -> Tensor:
        """Logits (L, K, h, w) by windows, spread along the attention within them, averaged likewise."""
        patch = self.patch_multiple(image.device)
        fits = math.gcd(self.crop, self.stride) % patch == 0
        require(fits, "crop, stride", [self.crop, self.stride], f"give multiples of {patch}, the patch of the backbone")
        windows = place_windows(0, tuple(image.shape[-2:]), self.crop, self.stride)
        cells, seen = None, image.new_zeros(grid)
        pairs, met = image.new_zeros(*grid, *grid), image.new_zeros(*grid, *grid)
        for start in range(0, len(windows), self.windows_per_batch):
            batch = windows[start : start + self.windows_per_batch]
            features, weights = self._patches(torch.stack([window.of(image) for window in batch]))
            logits = self._compare(features, texts)  # (L, B, P, K)
            cells = logits.new_zeros(len(logits), len(texts), *grid) if cells is None else cells
            for index, window in enumerate(batch):
                rows = slice(window.top // patch, (window.top + window.height) // patch)
                columns = slice(window.left // patch, (window.left + window.width) // patch)
                size = (window.height // patch, window.width // patch)
                cells[..., rows, columns] += logits[:, index].transpose(1, 2).unflatten(2, size)
                pairs[rows, columns, rows, columns] += weights[index].unflatten(1, size).unflatten(0, size)
                seen[rows, columns] += 1
                met[rows, columns, rows, columns] += 1
        attention = (pairs / (met + SMALL)).flatten(2).flatten(0, 1)  # (P, P)
        attention = attention / attention.sum(dim=1, keepdim=True)
        return ((cells / seen).flatten(2) @ attention).unflatten(2, grid)

    def _compensated(self, image: Tensor, coarse: Tensor, path: str | None) -> Tensor:
        if self.refinement == "none":
            return coarse
        if self.refinement == "diffusion":
            return spread_by_maps(coarse, read_maps(self.maps, path).to(coarse.device), self.attention_thd)
        tower, proxy = self.tower(image.device), text_backbone(self.proxy_spec, str(image.device))
        features = proxy_features(proxy, renormalize(image[None], tower, proxy), self.proxy_layer)
        affinity = proxy_attention(features, self.beta, self.gamma)[0]
        return spread_by_affinity(coarse, affinity, tuple(features.shape[-2:]))

    def _with_background(self, maps: Tensor, score: Tensor) -> Tensor:
        """(F, H, W) of the classes but the background, and the score of each -> (C, H, W)."""
        background = self.queries.background_index
        default = 0.0 if background is None else WITH_BACKGROUND
        class_thd = default if self.class_thd is None else self.class_thd
        bg_thd = default if self.bg_thd is None else self.bg_thd
        if self.normalize:
            maps = maps - maps.amin(dim=(1, 2), keepdim=True)
            maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + SMALL)
        maps = maps * (score > class_thd)[:, None, None]
        if background is None:
            return maps
        best = maps.amax(dim=0, keepdim=True)
        made = torch.full_like(best, bg_thd) if bg_thd else (1 - best) ** 2
        return torch.cat([maps[:background], made, maps[background:]])

    # Features and words -----------------------------------------------------------------------------------------

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> features (L, B, P, D) and the mean attention of the heads (B, P, P)."""
        tower = self.tower(pixels.device)
        features, weights = layer_features(tower, pixels, self.attention, self.released)
        prefix = tower.image_prefix
        return features[:, :, prefix:], weights.float().mean(dim=1)[:, prefix:, prefix:]

    def _compare(self, features: Tensor, texts: Tensor) -> Tensor:
        """(..., D) -> (..., K) logits."""
        with torch.autocast(features.device.type, enabled=False):
            return self.scale(features.device) * F.normalize(features.float(), dim=-1) @ texts.T

    def _texts(self, image: Tensor) -> tuple[Tensor, list[int]]:
        """(K, D), words of the classes, of the background, the mean of the first; and how many each class has."""
        rows, counts, background = self.queries().to(image.device), self.queries.counts, self.queries.background_index
        parts = list(rows[: sum(counts)].split(counts))
        others = [rows[sum(counts) :]]
        if background is not None:
            others.insert(0, parts.pop(background))
        classes = torch.cat(parts)
        texts = torch.cat([classes, *others, classes.mean(dim=0, keepdim=True)])
        return F.normalize(texts.float(), dim=-1), [len(part) for part in parts]

    def _check_thresholds(self) -> None:
        for option in ("class_thd", "bg_thd"):
            if getattr(self, option):
                self.queries.need_background(f"{option}={getattr(self, option)}")
