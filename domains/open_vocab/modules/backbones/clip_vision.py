"""The vision tower of a two-tower model as a backbone of mmdet and mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .....core.backbones import load_backbone
from .....core.contracts import InputChannels, require
from .....core.errors import ConfigError
from .....core.registry import build_loss
from .....core.training import LowRank, TowerLayers
from .....registry import MODELS
from .channels import widen_loaded
from .feature_pyramid import SCALES, SimpleFeaturePyramid
from .image_part import whole_patches

PYRAMIDS = ("simple", "taps")
TAPS = (0.25, 0.5, 0.75, 1.0)
"""Shares of a transformer's blocks after which its own maps are taken."""
SMALLEST_CNN_IMAGE = 64
"""Pixels from which channels and strides of a convolutional tower are read."""


@MODELS.register_module()
class CLIPVisionBackbone(BaseModule):
    """Maps of several resolutions from any vision tower: a vision transformer or ResNet of open_clip, timm's
    transformers (SigLIP), those of `hf:`, `embedded`.

    Only the image tower's parameters are in it and in its checkpoints. Images may have any size: a transformer's
    positions are interpolated, and what does not fill a patch is filled up with zeros on the right and below. What
    comes after the last block (norm, pooling, projection) serves `dense_tokens` alone; it does not train by default.

    Args:
        backbone: spec, see `load_backbone`.
        pyramid: "simple", the pyramid of `SimpleFeaturePyramid` on a transformer's last map, with `out_channels` and
            ready for a head without a neck; or "taps", the tower's own four maps: a CNN's stages, or the patches of a
            transformer after a quarter, a half, three quarters and all of its blocks, all of one resolution. None is
            "simple" for transformers and "taps" for CNNs.
        out_indices: which maps, from fine to coarse or from shallow to deep; None is all.
        out_channels: of the simple pyramid; None is 256.
        num_outs: levels of the simple pyramid, 4 or more (5 for Faster R-CNN, 5 from index 1 on for RetinaNet).
        frozen: nothing of the tower trains, and it stays in evaluation mode.
        frozen_stages: 0 freezes what stands before the first block, k also the first k blocks (stages of a ResNet), as
            mmdet's ResNets do; -1 freezes nothing.
        train_head: whether the norm, pooling and projection after the last block train.
        norm_eval: batch norms keep the statistics they have. Those of frozen stages do in any case.
        lora: options of `LowRank.add` for low-rank updates of its attention, such as `dict(r=4)`; the tower itself
            is then frozen.
        cropped_positions: True, or options fine_grid, crop_scale, crop_aspect of the loss `ro-vit`: in training an
            image is taken for a region of a larger one ("Region-Aware Pretraining for Open-Vocabulary Object Detection
            with Vision Transformers" (RO-ViT), 2023, arXiv 2305.07011).
        drop_path: chance that the last block of a transformer is left out for an image in training; it grows from 0
            with depth ("Deep Networks with Stochastic Depth", 2016, arXiv 1603.09382; here a block as a whole).
        with_cp: activations of the blocks are recomputed in the backward pass.
        channels: facts of `InputChannels`, where images have more than three channels: the layer that takes them is
            widened, and trains unless all is frozen. A tower that takes bands by what they are (torchgeo's) wants
            those of three, too.

    Attributes:
        backbone: the core `Backbone`, for what goes beyond maps; its text tower is not part of this module.
        out_channels, strides: of each map, pixels per cell.

    Raises:
        ConfigError: an option is not usable, or two exclude each other.
        CapabilityError: the tower gives no maps, or lacks what an option needs.
    """

    def __init__(
        self,
        backbone: str = "embedded",
        *,
        pyramid: str | None = None,
        out_indices: Sequence[int] | None = None,
        out_channels: int | None = None,
        num_outs: int = len(SCALES),
        frozen: bool = False,
        frozen_stages: int = -1,
        train_head: bool = False,
        norm_eval: bool = True,
        lora: Mapping[str, Any] | None = None,
        cropped_positions: bool | Mapping[str, Any] = False,
        drop_path: float = 0.0,
        with_cp: bool = False,
        channels: Mapping[str, Any] | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        require(0 <= drop_path < 1, "drop_path", drop_path, "give 0 to below 1")
        _check_freezing(frozen, frozen_stages, train_head, lora, cropped_positions)
        images = None if channels is None else InputChannels.of_facts(channels)
        self.backbone = load_backbone(backbone, device="cpu", channels=images)
        if frozen:
            self.backbone.check_channels("option frozen")
        self.backbone.need("feature_maps")
        self.is_transformer = "image_blocks" in self.backbone.capabilities
        self.drop_path, self.with_cp = drop_path, with_cp
        kind = pyramid or ("simple" if self.is_transformer else "taps")
        self._hold_tower()
        stages = None if self.is_transformer else self._stages()
        self._choose(kind, out_indices, num_outs if stages is None else len(stages))
        self._let_train(kind, frozen, frozen_stages, train_head)
        if norm_eval:
            TowerLayers(self.backbone).freeze_batch_norm()
        self._add_lora(lora)
        if images is not None and (layer := self.backbone.input_layer()) is not None:
            layer.requires_grad_(not frozen)
            widen_loaded(layer, images)
        if cropped_positions:
            options = cropped_positions if isinstance(cropped_positions, Mapping) else {}
            build_loss("ro-vit", **options).prepare(self.backbone)
        if drop_path:
            self.backbone.need("image_blocks")
        if with_cp and not self.is_transformer:
            TowerLayers(self.backbone).checkpoint()
        self._add_pyramid(kind, out_channels, num_outs)
        layout = self._levels(num_outs) if stages is None else stages
        self.out_channels, self.strides = zip(*(layout[index] for index in self.out_indices))
        self.train()

    # What it gives ----------------------------------------------------------------------------------------------

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W), normalised as the tower's own pixels -> maps (B, C_i, h_i, w_i)."""
        if not self.is_transformer:
            maps = self._maps(pixels)
            return tuple(maps[index] for index in self.out_indices)
        if self.pyramid is None:
            return tuple(self._patch_maps(pixels, self._stops()))
        return tuple(self.pyramid(self._patch_maps(pixels, [len(self.backbone.blocks("image"))])[0]))

    def dense_tokens(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w): each patch or cell in the space that texts share, not normalised."""
        tokens, grid = self.backbone.image_tokens(whole_patches(self.backbone, pixels))
        return tokens.transpose(1, 2).unflatten(2, grid)

    def train(self, mode: bool = True) -> CLIPVisionBackbone:
        """What is frozen stays in evaluation mode."""
        super().train(mode)
        self.backbone.model.training = mode
        for module in self.tower.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
        return self

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """The stages of a CNN; a backbone derived from this one may choose others."""
        return self.backbone.feature_maps(pixels)

    def _stops(self) -> list[int]:
        """After how many blocks of a transformer each chosen tap is taken."""
        depth = len(self.backbone.blocks("image"))
        return [max(1, round(TAPS[index] * depth)) for index in self.out_indices]

    def _patch_maps(self, pixels: Tensor, stops: Sequence[int]) -> list[Tensor]:
        """The patches after so many blocks, (B, W, h, w) each."""
        pixels = whole_patches(self.backbone, pixels)
        x, (height, width) = self.backbone.embed_image(pixels), self.backbone.image_grid(pixels)
        first, after = self.backbone.image_prefix, {}
        for index in range(max(stops)):
            x = self._block(index, x)
            after[index + 1] = x[:, first : first + height * width].transpose(1, 2).unflatten(2, (height, width))
        return [after[stop] for stop in stops]

    def _block(self, index: int, x: Tensor) -> Tensor:
        run = partial(self.backbone.run_blocks, "image", start=index, stop=index + 1)
        recomputed = self.with_cp and self.training and torch.is_grad_enabled()
        after = checkpoint(run, x, use_reentrant=False) if recomputed else run(x)
        rate = self.drop_path * index / max(1, len(self.backbone.blocks("image")) - 1)
        if not (self.training and rate):
            return after
        kept = torch.rand(len(x), 1, 1, device=x.device) >= rate
        return x + (after - x) * kept / (1 - rate)

    # How it is made ---------------------------------------------------------------------------------------------

    def _choose(self, kind: str, out_indices: Sequence[int] | None, num_outs: int) -> None:
        require(kind in PYRAMIDS, "pyramid", kind, f"give one of {', '.join(PYRAMIDS)}")
        self.out_indices = tuple(range(num_outs) if out_indices is None else out_indices)
        known = all(0 <= index < num_outs for index in self.out_indices) and len(self.out_indices) > 0
        require(known, "out_indices", out_indices, f"this backbone has maps 0 to {num_outs - 1}")

    def _hold_tower(self) -> None:
        """The image tower becomes part of this module; what else its features need follows to other devices."""
        children = dict(self.backbone.model.named_children())
        towers = {name: self.backbone.tower_of(name) for name in children}
        self.tower = nn.ModuleDict({name: child for name, child in children.items() if towers[name] == "image"})
        self._beside = [child for name, child in children.items() if towers[name] == "shared"]

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        for module in self._beside:
            module._apply(fn)
        self.backbone.device = next(self.tower.parameters()).device
        return self

    def _let_train(self, kind: str, frozen: bool, frozen_stages: int, train_head: bool) -> None:
        layers = TowerLayers(self.backbone)
        last = layers.count("image")
        require(frozen_stages <= last, "frozen_stages", frozen_stages, f"this tower has {last} blocks")
        used = max(self._stops()) if kind == "taps" and self.is_transformer else last
        deepest = last + 1 if train_head else used
        for name, parameter in self.backbone.model.named_parameters():
            if self.backbone.tower_of(name) == "image" and not frozen:
                parameter.requires_grad_(frozen_stages < layers.depth(name) <= deepest)

    def _add_lora(self, lora: Mapping[str, Any] | None) -> None:
        if lora is None:
            return
        if "towers" in lora:
            raise ConfigError("option lora.towers is not for a vision backbone; its LoRA is in the image tower")
        LowRank.add(self.backbone, towers=("image",), **lora)

    def _add_pyramid(self, kind: str, out_channels: int | None, num_outs: int) -> None:
        self.pyramid = None
        if kind == "simple":
            self.backbone.need("image_blocks")
            self.pyramid = SimpleFeaturePyramid(self._width(), out_channels or 256, num_outs, self.out_indices)
            return
        cure = f"pyramid 'taps' gives the tower's own {len(TAPS)} maps; change them by a neck"
        require(out_channels is None, "out_channels", out_channels, cure)
        require(num_outs == len(TAPS), "num_outs", num_outs, cure)

    def _levels(self, num_outs: int) -> list[tuple[int, float]]:
        """Channels and stride of every map of a transformer."""
        if self.pyramid is None:
            return [(self._width(), self.backbone.image_stride)] * num_outs
        finest = self.backbone.image_stride / SCALES[0]
        strides = [finest * 2**level for level in range(num_outs)]
        return [(self.pyramid.out_channels, int(stride) if stride % 1 == 0 else stride) for stride in strides]

    @torch.no_grad()
    def _stages(self) -> list[tuple[int, int]]:
        """Channels and stride of every map of a CNN."""
        maps = self._maps(torch.zeros(1, len(self.backbone.image_mean), SMALLEST_CNN_IMAGE, SMALLEST_CNN_IMAGE))
        return [(each.shape[1], SMALLEST_CNN_IMAGE // each.shape[-1]) for each in maps]

    @torch.no_grad()
    def _width(self) -> int:
        return self.backbone.embed_image(self.backbone.blank_image()).shape[-1]


def _check_freezing(frozen: bool, frozen_stages: int, train_head: bool, lora: Any, cropped_positions: Any) -> None:
    """Refuse options that exclude each other.

    Raises:
        ConfigError: they do.
    """
    require(frozen_stages >= -1, "frozen_stages", frozen_stages, "give -1 or more")
    still = {"frozen": frozen, "frozen_stages": frozen_stages >= 0, "lora": lora is not None}
    given = [name for name, value in still.items() if value]
    if len(given) > 1:
        raise ConfigError(f"options {' and '.join(given)} exclude each other: each says what stays frozen; give one")
    if given in (["frozen"], ["lora"]) and train_head:
        raise ConfigError(f"options {given[0]} and train_head exclude each other; give one")
    if given and cropped_positions:
        raise ConfigError(f"option cropped_positions trains the positions, which {given[0]} keeps; give one of the two")
