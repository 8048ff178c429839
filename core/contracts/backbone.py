"""A two-tower model behind one interface, frozen or trainable."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CapabilityError, ConfigError, DataError, UnknownNameError
from .families import FROM_MODULE, OFFERED, ROOTS, families_with
from .images import ImageSize, InputChannels, height_and_width, size_in_words

TEXTS_AT_ONCE = 256

CAPABILITIES = {
    "prompt": "embed_tokens and encode_prompt (prompt learning)",
    "trim": "prompts cut to the longest one without changing the result",
    "image_blocks": "transformer blocks of the image tower",
    "text_blocks": "transformer blocks of the text tower",
    "image_tokens": "one feature per patch or grid cell, in the shared space",
    "hidden": "image features before the projection",
    "feature_maps": "feature maps of several depths",
}
BLOCK_LISTS = re.compile(r"(resblocks|blocks|layers|layer\d*)$")
OF_TEXTS = frozenset({"prompt", "trim", "text_blocks"})
"""Those of a text tower."""


@dataclass(frozen=True)
class Block:
    """One transformer block under uniform names; `forward` runs it whole.

    `qkv(x)` gives the stacked (.., 3 * W) projections whether the tower keeps them in one matrix or three. `module` is
    the child of the model that holds all of its weights, and `of(module)` the block of a copy of it; None where a block
    is more than its module. `attended(qkv(ln_1(x)))` is what attention adds to x; None of a block that normalises sums.
    """

    ln_1: nn.Module
    qkv: Callable[[Tensor], Tensor]
    out: nn.Module
    ln_2: nn.Module
    mlp: nn.Module
    num_heads: int
    forward: Callable[..., Tensor]
    module: nn.Module | None = None
    of: Callable[[nn.Module], Block] | None = None
    attended: Callable[[Tensor], Tensor] | None = None

    def __call__(self, x: Tensor, **kwargs) -> Tensor:
        return self.forward(x, **kwargs)


class Backbone(ABC):
    """Base of all backbones. Everything in "whole" is required; the rest is what `capabilities` lists.

    Known without building the model: `spec`, `embed_dim`, `image_size`, `image_mean`, `image_std`, `context_length`,
    `fingerprint`, `capabilities`, `licence`, `has_text`, `notes`. The model itself (`model`) is built at first use.

    Pixels (B, 3, S, S) below are (B, 3, H, W) where `image_size` is (H, W).

    Attributes:
        has_text: whether there is a text tower; without one `context_length` is 0 and texts are refused.
        notes: sentences a user should read, which go into a run's notes.
        mask_token: id of the token that stands for a hidden word, None where the text tower knows none.
        word_ids: ids of tokens that are words or parts of words, where `mask_token` is known.
        reduction: of the tokens that its blocks merge (`merge_tokens`); None: they keep all.
        finder: the loss of a training that says what images and texts are searched by (`Loss.finds`), in place of the
            features that the towers give; None: those.
        answers: name -> loss of a training by which an adapter of that name answers (`Loss.answers`).
        compares: whether such a training left images and texts comparable.
        joint: sees the parts of a sample together (`core/backbones/joint_parts.py`); None: each is encoded by itself.
        of_parts: whether it encodes a sample from the features of its parts, which alone are worth storing: a head on
            towers (`core/backbones/heads.py`).
        in_rows: whether images become rows of patches (`core/backbones/native_aspect.py`), whose pixels are no picture
            that could be resized, shown or covered.
        channels: what images have beyond red, green and blue (`widen`); None for pictures of three channels. C of them
            are in all pixels (B, 3, S, S) below, and in `image_mean` and `image_std`.
        by_band: whether it takes bands by what they are, their wavelengths or names, also where there are three.
    """

    family: ClassVar[str] = ""

    spec: str
    embed_dim: int
    image_size: ImageSize
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    context_length: int
    fingerprint: str
    capabilities: frozenset[str]
    licence: str = "unknown"
    has_text: bool = True
    notes: Sequence[str] = ()
    mask_token: int | None = None
    word_ids: range = range(0)
    channels: InputChannels | None = None
    by_band: bool = False
    reduction: Any = None
    finder: Any = None
    answers: Mapping[str, Any] = MappingProxyType({})
    compares: bool = True
    joint: Any = None
    of_parts: bool = False
    in_rows: bool = False
    device: torch.device

    @staticmethod
    def from_module(
        module: nn.Module,
        *,
        image_size: ImageSize,
        embed_dim: int,
        preprocess: Callable[[Any], Tensor] | None = None,
    ) -> Backbone:
        """An image encoder of your own, as `fit(backbone=...)` and `predict(run, images, backbone=...)` take it.

        A copy is used; the module itself stays as it is. Its fingerprint tells of its weights and of what it makes of
        fixed images, so that features of other weights, or of other code, are never taken for its own.

        Args:
            module: (B, 3, H, W) float32 pixels -> (B, D) features, in eval mode.
            image_size: side of its images, or (height, width).
            embed_dim: D.
            preprocess: a PIL image in RGB -> pixels (3, H, W); by default a resize, a crop of the centre and the
                normalisation of ImageNet. In training it is given a random crop of the image.

        Raises:
            ConfigError: the module gives no such features, or `preprocess` no such pixels.
        """
        # the class of these backbones stands on this one, in a room above
        made = import_module("..backbones.module", __package__).ModuleBackbone
        return made(module, image_size, embed_dim, preprocess)

    def __repr__(self) -> str:
        size = size_in_words(self.image_size)
        return f"<backbone {self.spec}: images of {size} to {self.embed_dim} features, {self.fingerprint}>"

    # whole ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The torch module with both towers, on `device`, built at first use, in eval mode with frozen parameters."""

    @property
    @abstractmethod
    def logit_scale(self) -> Tensor:
        """What cosines are multiplied by: a scalar tensor, already exponentiated; differentiable when trainable."""

    @property
    def logit_bias(self) -> Tensor | None:
        """Added to the scaled cosines (SigLIP), or None."""
        return None

    @abstractmethod
    def preprocess(self, train: bool = False) -> Callable[[Any], Tensor]:
        """A callable: PIL image or array (H, W), (H, W, 3), uint8 or float in 0..1 -> pixels (3, S, S) float32.

        It has an attribute `spec`, a JSON-able dict that says exactly what it does (part of the feature store's key).
        """

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(N, context_length) int64."""

    @abstractmethod
    def token_mask(self, tokens: Tensor) -> Tensor:
        """(N, L) bool: tokens that take part (for causal towers: up to and including end-of-text)."""

    def word_mask(self, tokens: Tensor) -> Tensor:
        """(N, L) bool: tokens of the text itself, without its start and its end."""
        mask = self.token_mask(tokens)
        inner = mask.clone()
        inner[:, 0] = False
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)
        inner[torch.arange(len(inner), device=inner.device), last] = False
        return inner

    @abstractmethod
    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        """(B, 3, S, S) -> (B, D) float32; (B, T, 3, S, S) too where `joint` sees the parts of a sample together."""

    def encode_parts(self, pixels: Tensor) -> Tensor:
        """(B, T, 3, S, S) -> (B, T, D) float32, not normalised: each part by itself, or as `joint` sees it among the
        others.

        Raises:
            CapabilityError: `joint` gives one vector per sample.
        """
        if self.joint is not None:
            return self.joint(self, pixels.to(self.device), parts=True).float()
        return self.encode_image(pixels.flatten(0, 1), normalize=False).unflatten(0, pixels.shape[:2])

    @abstractmethod
    def encode_text(self, texts: Sequence[str] | Tensor, normalize: bool = True) -> Tensor:
        """Texts or (N, L) tokens -> (N, D) float32."""

    def encode_measured(self, tokens: Tensor, lengths: np.ndarray | int, normalize: bool = True) -> Tensor:
        """`encode_text` of tokens whose lengths the host knows, so that it need not wait for the device to cut them.

        Args:
            tokens: (N, L).
            lengths: (N,) integers, how many of each row take part, as `token_mask` says; or the largest of them.
        """
        return self.encode_text(tokens, normalize)

    def text_means(self, groups: Sequence[Sequence[str]], normalize: bool = True) -> Tensor:
        """(C, D) of C lists of texts, each the mean of its texts' features; with gradients, where these are wanted.

        Args:
            normalize: bring the features to unit length first.
        """
        texts = list(dict.fromkeys(text for group in groups for text in group))
        place = {text: row for row, text in enumerate(texts)}
        chunks = [texts[i : i + TEXTS_AT_ONCE] for i in range(0, len(texts), TEXTS_AT_ONCE)]
        features = torch.cat([self.encode_text(chunk, normalize=normalize) for chunk in chunks])  # (T, D)
        return torch.stack([features[[place[text] for text in group]].mean(dim=0) for group in groups])

    def to(self, device) -> Backbone:
        """Move the towers; returns self."""
        self.device = torch.device(device)
        self.model.to(self.device)
        return self

    def widen(self, channels: InputChannels) -> None:
        """Let the image tower take images of these channels, in place, before the model is built.

        Raises:
            CapabilityError: it takes three channels and no others.
        """
        raise CapabilityError(f"backbone '{self.spec}' takes pictures of three channels; give {channels.advice}")

    @property
    def least_side(self) -> int | None:
        """The shortest side that a decoder may reduce an image to, after `decode_fast`; None where it may not."""
        return None

    def decode_fast(self) -> None:
        """Take photographs that their decoder has reduced on the way (`Preprocess.fast_decode`), in place: it is
        another encoder then, with a fingerprint of its own.

        Raises:
            CapabilityError: it prepares images in a way of its own, or takes no RGB.
        """
        raise CapabilityError(f"--fast-decode: backbone '{self.spec}' prepares images in a way of its own; omit it")

    def blank_image(self) -> Tensor:
        """(1, C, H, W) zeros: one image as the image tower takes them."""
        return torch.zeros(1, len(self.image_mean), *height_and_width(self.image_size))

    def image_weights(self) -> list[nn.Parameter]:
        """What an image passes."""
        return [weight for name, weight in self.model.named_parameters() if self.tower_of(name) == "image"]

    def tower_of(self, name: str) -> str:
        """ "image", "text" or "shared".

        Args:
            name: of a parameter or module of `model`, qualified.

        Raises:
            UnknownNameError: nothing on the model has that name.
        """
        module = self.model
        for part in name.split("."):
            module = getattr(module, part, None)
        if module is None:
            raise UnknownNameError(f"backbone '{self.spec}' has no parameter '{name}'; see model.named_parameters()")
        root = name.removeprefix("prompts.").partition(".")[0]
        return next((tower for tower, roots in ROOTS.items() if root in roots), "shared")

    def mark_learned(self, tensors: Mapping[str, Tensor]) -> None:
        """Give it a fingerprint of its own, which tells of the weights that were learned on top of it, in place."""
        digest = hashlib.sha256()
        for name in sorted(tensors):
            value = tensors[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy())
        text = f"{self.fingerprint} {digest.hexdigest()}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[: len(self.fingerprint)]

    def set_last_stride(self) -> None:
        """Let the last stage of a ResNet image tower go one cell at a time, in place, before the model is built: its
        last map has twice the height and width.

        Raises:
            CapabilityError: the image tower is no ResNet.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' has no ResNet for an image tower, so there is no last stride; omit last_stride, "
            "or give a ResNet of open_clip or timm (openai-rn50)"
        )

    def merge_tokens(self, reduction: Any) -> None:
        """Let the image tower merge tokens in its blocks, in place ("SPEC#merge=13"). Its blocks are then open no more.

        Args:
            reduction: a `Reduction` of `core/backbones/spec_options.py`.

        Raises:
            CapabilityError: the image tower is none whose tokens can be merged.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' is no vision transformer whose tokens can be merged; omit #merge, or give another "
            "backbone (`vladapt list backbones --can image_blocks`)"
        )

    def keep_aspect(self, patches: Any) -> None:
        """Let images keep their aspect ratio, in place ("SPEC#patches=256"): `preprocess` then gives a row of patches,
        and what lies inside the image tower is not open.

        Args:
            patches: `Patches` of `core/backbones/spec_options.py`.

        Raises:
            CapabilityError: the image tower takes images of one size.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' takes images of one size, not of any aspect ratio; omit #patches, or give SigLIP "
            "2's NaFlex towers (hf:google/siglip2-base-patch16-naflex)"
        )

    def set_resolution(self, resolution: Any) -> None:
        """Say how large a pixel is on the ground, in place, before the model is built ("SPEC#res=10").

        Args:
            resolution: a `Resolution` of `core/backbones/spec_options.py`.

        Raises:
            CapabilityError: it makes no difference to the image tower.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' does not look at the size of a pixel on the ground; omit #res, or give "
            "Scale-MAE or Copernicus-FM of torchgeo"
        )

    def input_layer(self) -> nn.Module | None:
        """The layer that takes the channels of an image, where it was widened; None where it was not."""
        return None

    def notes_on_channels(self) -> list[str]:
        """What a user should know of an image tower that was widened."""
        if self.channels is None:
            return []
        first, further = ", ".join(self.channels.names[:3]), self.channels.further
        started = {
            InputChannels.ZERO: "at zero, so the features at the start are those of the first three",
            InputChannels.TRAINED: "in the training that made its weights",
            InputChannels.MEAN: "with the mean of its weights for these, and all were scaled by 3 / channels",
        }
        return [
            f"The image tower sees {first} as red, green and blue; {further} started {started[self.channels.start]}. "
            "The further ones are normalised by the mean of its three means and of its three standard deviations."
        ]

    def check_channels(self, who: str, trains: bool = False) -> None:
        """Refuse whatever would see nothing of the further channels.

        Args:
            who: "adapter 'ape'", for the message.
            trains: whether it trains the layer that takes them.

        Raises:
            CapabilityError: there are some, they start at zero, and it does not.
        """
        if self.channels is None or self.channels.start != InputChannels.ZERO or trains:
            return
        raise CapabilityError(
            f"{who} cannot use {self.channels.further}: channels beyond the third start at zero, and it does not train "
            f"the layer that reads them; fit lora or full, or give {self.channels.advice}"
        )

    # prompts ----------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Words of the text tower."""
        raise self.lacking("prompt")

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens -> (N, L, W) word embeddings, before positions."""
        raise self.lacking("prompt")

    def encode_prompt(self, embeddings: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        """(N, L, W) embeddings before positions and an (N, L) bool validity mask -> (N, D), differentiable.

        L may be shorter than `context_length` only where "trim" is in `capabilities`.
        """
        raise self.lacking("prompt")

    def start_tokens(self) -> int:
        """How many tokens the tokenizer puts before the first word."""
        tokens = self.tokenize(["dog", "red"])
        return int((tokens[0] != tokens[1]).int().argmax())

    def attach_prompts(
        self,
        *,
        image: Tensor | nn.Module | None = None,
        text: Tensor | None = None,
        couplings: Sequence[nn.Linear] = (),
    ) -> Any:
        """Put learned tokens into the towers, in place; every pass goes with them from then on.

        Args:
            image, text: (depth, n, W) what the tokens start from, n before each of the first `depth` blocks of that
                tower; for images also a module that makes them (`depth`, `count`, `at(block)`).
            couplings: per block one linear layer from the text tower's width to the image tower's, which makes the
                tokens for images of those for texts, in place of `image`.

        Returns:
            `TowerPrompts` of `core/backbones/prompted.py`, whose weights train.

        Raises:
            CapabilityError: the towers have no blocks that take tokens, or tokens already.
            ConfigError: the tokens leave no place for words.
        """
        self._need_blocks_for(image is not None or len(couplings) > 0, text is not None)
        raise CapabilityError(
            f"backbone '{self.spec}' takes no learned tokens in its towers; use a vision transformer "
            "(`vladapt list backbones --can image_blocks`)"
        )

    def _need_blocks_for(self, image: bool, text: bool) -> None:
        """Raise CapabilityError unless the towers that are to take tokens have blocks."""
        for capability in (*["image_blocks"] * image, *["prompt", "text_blocks"] * text):
            self.need(capability)

    # inside -----------------------------------------------------------------------------------------------------

    def blocks(self, tower: str) -> Sequence[Block]:
        """The transformer blocks of "image" or "text"."""
        raise self.lacking(f"{tower}_blocks")

    def width(self, tower: str) -> int:
        """W of "image" or "text": how wide the tokens in a tower are.

        Raises:
            CapabilityError: the tower has no blocks.
        """
        block = self.blocks(tower)[0]
        return next(p.shape[0] for p in block.out.parameters() if p.ndim == 2)

    def image_positions(self) -> Any:
        """Where the image tower adds its positions: `ImagePositions` of `core/backbones/positions.py`.

        Raises:
            CapabilityError: it adds none to its patches.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' adds no positions to the patches of its images; choose one that does: vision "
            "transformers with learned positions (CLIP's, SigLIP's)"
        )

    def patch_layer(self) -> nn.Module:
        """What gives the patches of the image tower, (B, W, h, w), before positions: where they can be hidden.

        Raises:
            CapabilityError: the tower has no such layer.
        """
        raise CapabilityError(
            f"backbone '{self.spec}' has no layer at which patches could be hidden; choose a vision transformer whose "
            "patches are cut by one convolution (CLIP, DINOv2)"
        )

    def attach_joint(self, joint: Any) -> Any:
        """Let the image tower see the parts of a sample through `joint`, in place: a child of `model`, which it gives.

        Args:
            joint: `JointParts` of `core/backbones/joint_parts.py`.

        Raises:
            CapabilityError: the image tower has no blocks, or sees parts together already.
        """
        self.need("image_blocks")
        raise CapabilityError(
            f"backbone '{self.spec}' cannot encode several frames or slices at once; use a vision transformer "
            "(`vladapt list backbones --can image_blocks`)"
        )

    def embed_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, T, W): what the first block takes."""
        raise self.lacking("image_blocks")

    def run_blocks(
        self,
        tower: str,
        x: Tensor,
        start: int = 0,
        stop: int | None = None,
        *,
        insert: Callable[[int, Tensor], Tensor] | None = None,
        attention: Callable[..., Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Run blocks `start` to `stop` (exclusive) on x (B, T, W).

        Args:
            insert: called as insert(i, x) before block i; what it returns goes into the block (prompt tuning).
            attention: replaces the attention of each block: attention(i, block, x_normalised) -> (B, T, W).
            mask: (B, T) bool validity mask, for masked text towers.
        """
        raise self.lacking(f"{tower}_blocks")

    def pool_image(self, x: Tensor, normalize: bool = True) -> Tensor:
        """(B, T, W) after the last block -> (B, D)."""
        raise self.lacking("image_blocks")

    def pool_text(self, x: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        """(N, L, W) after the last text block and the (N, L) mask -> (N, D)."""
        raise self.lacking("text_blocks")

    def embed_prompt(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """(N, L, W) word embeddings before positions -> (N, L, W): what the first text block takes."""
        raise self.lacking("text_blocks")

    def text_tokens(self, tokens: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """(N, L) tokens -> (N, L, W): what the last text block gives at each.

        Args:
            embeddings: (N, L, W) in place of the tokens' own, before positions.
        """
        mask = self.token_mask(tokens)
        words = self.embed_tokens(tokens) if embeddings is None else embeddings
        return self.run_blocks("text", self.embed_prompt(words, mask), mask=mask)

    def hidden(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, W): image features before the projection."""
        raise self.lacking("hidden")

    def image_projection(self) -> Any:
        """How `hidden` becomes image features, a matrix or None where it is more than that or nothing.

        Raises:
            CapabilityError: it does not say.
        """
        self.need("hidden")
        raise CapabilityError(
            f"backbone '{self.spec}' does not declare its projection, so it cannot be tuned; choose another backbone"
        )

    @torch.no_grad()
    def put_tensors(self, tensors: Mapping[str, Tensor], module: nn.Module | None = None) -> None:
        """Overwrite parameters and buffers of the model, or of one of its modules, in place.

        Raises:
            DataError: the model has no tensor of that name and shape; nothing is then changed.
        """
        current = (module or self.model).state_dict(keep_vars=True)
        for name, value in tensors.items():
            if name not in current or current[name].shape != value.shape:
                raise DataError(
                    f"backbone '{self.spec}' has no weight '{name}' of shape {tuple(value.shape)}; fit again"
                )
        for name, value in tensors.items():
            current[name].copy_(value)

    @property
    def description(self) -> dict[str, Any] | None:
        """From what its family builds it again; None where it cannot be saved."""
        return None

    def save_companions(self, folder: Path) -> None:
        """Write what its own library reads beside its weights; by default nothing."""

    def block_modules(self) -> list[nn.Module]:
        """The model's blocks in both towers, each run as a whole: what is recomputed or sharded one at a time.

        By default the members of the model's lists named blocks, resblocks, layers, layer, layer1, ...
        """
        return [
            block
            for name, module in self.model.named_modules()
            if isinstance(module, (nn.ModuleList, nn.Sequential)) and BLOCK_LISTS.search(name)
            for block in module
        ]

    def wrap_blocks(self, wrap: Callable[[Block], Block]) -> None:
        """Let every pass over `blocks` run what `wrap` makes of each."""

    def image_tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, S, S) -> (B, P, D) in the shared space, and the grid (h, w) with h * w = P."""
        raise self.lacking("image_tokens")

    def value_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """(B, 3, S, S) -> (B, P, D) in the shared space, of the values that the last attention would mix; (B, P, W) the
        keys of the same places; and the grid ("Extract Free Dense Labels from CLIP", 2022, arXiv 2112.01071).

        A transformer keeps the residuals and the MLP of its last block; a ResNet has its attention pool instead; a
        tower that averages its last map has its cells, and None for keys.
        """
        raise self.lacking("image_tokens")

    def image_outputs(self, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        """What is named of "image_features" (B, D) unit, "image_embedding" (B, D), "image_hidden" (B, W) and
        "image_tokens" (B, P, D)."""
        makers = {
            "image_features": lambda: self.encode_image(pixels),
            "image_embedding": lambda: self.encode_image(pixels, normalize=False),
            "image_hidden": lambda: self.hidden(pixels),
            "image_tokens": lambda: self.image_tokens(pixels)[0],
        }
        return {name: makers[name]() for name in sorted(names)}

    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, S, S) -> maps (B, W_i, h_i, w_i) from shallow to deep."""
        raise self.lacking("feature_maps")

    def own_texts(self) -> Backbone | None:
        """Of joined towers, the image tower with the texts that it was trained with, frozen and apart from these; None
        where there are none.

        Raises:
            CapabilityError: images were moved to where those texts are not.
        """
        return None

    def need_texts(self, method: str = "") -> None:
        """Raise CapabilityError unless there is a text tower.

        Args:
            method: who asks, for a cure of its own; "" for the tower alone.
        """
        if self.has_text:
            return
        asked = f"{method} learns from class texts: " if method else ""
        other = "a method without texts (linear-probe, tip-adapter), or " if method else ""
        raise CapabilityError(
            f"{asked}backbone '{self.spec}' has an image tower only and reads no texts; choose {other}"
            "a backbone with a text tower (`vladapt list backbones --can prompt`)"
        )

    def need(self, capability: str) -> None:
        """Raise the CapabilityError that names towers with `capability`, unless this one has it."""
        if capability not in self.capabilities:
            raise self.lacking(capability)

    def lacking(self, capability: str) -> CapabilityError | AssertionError:
        """The error of a call that takes a capability, where it is lacking, or declared and not implemented."""
        if capability in self.capabilities:
            return AssertionError(f"a backbone with '{capability}' implements what takes it")
        lacking = CAPABILITIES.get(capability, capability)
        if not self.has_text and capability in OF_TEXTS:
            lacking = f"text tower, so no {lacking}"
        elsewhere = [f"other models of {name}" if name == self.family else name for name in families_with(capability)]
        return CapabilityError(
            f"backbone '{self.spec}' has no {lacking}; towers that have it: "
            f"{', '.join(elsewhere) or 'none of this version'} (`vladapt list backbones --can {capability}`)"
        )


def normalized(features: Tensor, normalize: bool) -> Tensor:
    """float32, unit rows if asked."""
    features = features.float()
    return F.normalize(features, dim=-1) if normalize else features


def logit_facts(backbone: Backbone) -> dict[str, float | None]:
    """What the cosines of a backbone are multiplied by, and what is added to them, as numbers."""
    scale, bias = backbone.logit_scale.detach(), backbone.logit_bias
    return {"logit_scale": float(scale), "logit_bias": None if bias is None else float(bias.detach())}


def offered(backbone: Any) -> str:
    """The spec of what a user gives as a backbone in place of a spec; it can be loaded by it from then on.

    Raises:
        ConfigError: a bare module, or a backbone that has a spec anyway.
    """
    if isinstance(backbone, Backbone) and backbone.family == "module":
        OFFERED[backbone.spec] = backbone
        return backbone.spec
    name = type(backbone).__name__
    if isinstance(backbone, nn.Module):
        raise ConfigError(
            f"backbone={name}: the size of its images and its width are not known; give backbone={FROM_MODULE}"
        )
    if isinstance(backbone, Backbone):
        raise ConfigError(f"backbone={name}: give its spec: backbone={backbone.spec!r}")
    raise ConfigError(f"backbone={name}: give a spec as of `vladapt list backbones`, or backbone={FROM_MODULE}")
