"""The whole Backbone interface, written once over an image tower and a text tower that say what each step is."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts.backbone import CAPABILITIES, Backbone, Block, normalized
from ..contracts.families import JOINT
from ..contracts.images import ImageSize, InputChannels, as_image_size, height_and_width, size_in_words
from ..errors import CapabilityError, ConfigError, DataError
from ..runtime.files import not_finite
from .channels import BandPreprocess, ChannelPreprocess, input_layer, widen
from .joint_parts import JointParts
from .positions import ImagePositions, ProjectionMatrix, insert_after_start
from .preprocessing import Preprocess
from .prompted import CoupledTokens, PromptTokens, TowerPrompts
from .spec_options import Reduction
from .tower_steps import ImageTower, TextTower, run_through, unsized

OPEN_INSIDE = frozenset({"image_blocks", "feature_maps"})
"""What an image tower that merges tokens does not have."""
LEAST_TEXT = 4
"""Places that stay for the start, the end and words where learned tokens go into a text."""


class TwoTower(Backbone):
    """Base of the backbones that another library builds.

    A family implements `build_model`, `build_towers`, `build_tokenizer`, `encode_pixels` and `encode_tokens`, the last
    two by the library's own forward pass, and `token_mask`.

    Attributes:
        text_prefix: (n, W) vectors that `encode_text` puts after the start token, or None. Prompts that are learned
            through `encode_prompt` go without.
        prompts: learned tokens inside the towers (`attach_prompts`), a child of `model`, or None. Every pass goes with
            them.
        further: (W, C - 3, k, k) trained weights of channels beyond the third, or None.
        turned: whether the image tower turns queries and keys by where patches lie, in every block.
        reduction: how many tokens the image tower merges in its blocks; None: none.
    """

    transform: Preprocess
    turned: bool = False
    reduction: Reduction | None = None

    def __init__(self):
        self._model: nn.Module | None = None
        self._towers: tuple[ImageTower | None, TextTower | None] | None = None
        self._tokenizer: Callable[[list[str]], Tensor] | None = None
        self.text_prefix: Tensor | None = None
        self.prompts: TowerPrompts | None = None
        self.joint: JointParts | None = None
        self.further: Tensor | None = None

    def __getstate__(self):
        # Towers hold closures over the modules; a copy must make its own over its own modules.
        return {**self.__dict__, "_towers": None}

    # What a family implements -----------------------------------------------------------------------------------

    @abstractmethod
    def build_model(self) -> nn.Module:
        """The module with its weights, on the CPU."""

    @abstractmethod
    def build_towers(self, model: nn.Module) -> tuple[ImageTower | None, TextTower | None]:
        """The steps of both towers; None for one whose inside is not open."""

    @abstractmethod
    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        """Texts -> (N, context_length) int64."""

    @abstractmethod
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, D) by the library's forward pass."""

    @abstractmethod
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(N, context_length) -> (N, D) by the library's forward pass."""

    def classifier_of_names(self) -> tuple[list[str], Tensor, Tensor] | None:
        """Names of the classes that the published classifier on top of the image tower tells apart, its rows (C, D) on
        the features of `encode_image`, and its biases (C,); None where it has none with names."""
        return None

    # Whole ------------------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        if self._model is None:
            # Random initialisation, thrown away for the weights, must not move the seed of the run; and towers that are
            # built while a caller infers must still serve one that trains.
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False), unsized():
                model = self.build_model()
                if self.channels is not None:
                    self.widen_model(model)
                if self.prompts is not None:
                    model.prompts = self.prompts
                _check_numbers(model, self.spec)
                self._model = model.float().eval().requires_grad_(False).to(self.device)
        return self._model

    @property
    def image_mean(self) -> tuple[float, ...]:
        return self.statistics()[0]

    @property
    def image_std(self) -> tuple[float, ...]:
        return self.statistics()[1]

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, by which pixels in 0..1 are normalised."""
        mean, std = self.transform.mean, self.transform.std
        return (mean, std) if self.channels is None else (self.channels.widened(mean), self.channels.widened(std))

    @property
    def image_size(self) -> ImageSize:
        return self.transform.image_size

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp().reshape(())

    @property
    def logit_bias(self) -> Tensor | None:
        bias = getattr(self.model, "logit_bias", None)
        return None if bias is None else bias.reshape(())

    def preprocess(self, train: bool = False) -> Preprocess | ChannelPreprocess | BandPreprocess:
        transform = replace(self.transform, train=train)
        return transform if self.channels is None else ChannelPreprocess(transform, len(self.channels))

    def widen(self, channels: InputChannels) -> None:
        if self._model is not None:
            raise CapabilityError(f"backbone '{self.spec}' is built already; load it again to widen it")
        of_others = channels.start == InputChannels.TRAINED  # of another tower's weights
        start = InputChannels.ZERO if of_others else channels.start
        self.channels = replace(channels, start=start)
        self.fingerprint = fingerprint(self.family, [len(channels), start], self.fingerprint, {})

    def widen_model(self, model: nn.Module) -> None:
        """Let a model that was just built take images of `channels`, in place."""
        assert self.channels is not None
        widen(model, self.spec, self.channels, self.further)

    @property
    def least_side(self) -> int | None:
        return self.transform.least_side

    def decode_fast(self) -> None:
        if type(self.transform) is not Preprocess or self.channels is not None:
            super().decode_fast()
        self.transform = replace(self.transform, fast_decode=True)
        self.fingerprint = fingerprint(self.family, "fast-decode", self.fingerprint, self.transform.spec)

    def merge_tokens(self, reduction: Reduction) -> None:
        if "image_blocks" not in self.capabilities:
            super().merge_tokens(reduction)
        if self.turned:
            raise CapabilityError(
                f"backbone '{self.spec}' turns queries and keys by where patches lie, and merged tokens lie nowhere; "
                "omit #merge, or give a vision transformer with learned positions"
            )
        if self.prompts is not None and self.prompts.image is not None:
            raise CapabilityError(
                f"backbone '{self.spec}' has learned tokens among those of its images, which cannot be merged; omit "
                "#merge"
            )
        self.reduction, self._towers = reduction, None
        self.fingerprint = fingerprint(self.family, ["merge", str(reduction)], self.fingerprint, {})
        self.capabilities = self.capabilities - OPEN_INSIDE

    def lacking(self, capability: str) -> CapabilityError | AssertionError:
        if self.reduction is None or capability not in OPEN_INSIDE:
            return super().lacking(capability)
        return CapabilityError(
            f"backbone '{self.spec}' merges tokens from block to block, so it has no {CAPABILITIES[capability]} to "
            "work on; give it without #merge"
        )

    def input_layer(self) -> nn.Module | None:
        return None if self.channels is None else input_layer(self.model, self.spec, len(self.channels))[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> TwoTower:
        """With its own towers; the tokenizer, which nothing changes and whose tables are large, is shared."""
        if self._tokenizer is not None:
            memo[id(self._tokenizer)] = self._tokenizer
        copied = memo[id(self)] = object.__new__(type(self))
        copied.__dict__.update(deepcopy(self.__getstate__(), memo))
        return copied

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        self.need_texts()
        if self._tokenizer is None:
            self._tokenizer = self.build_tokenizer()
        return self._tokenizer([texts] if isinstance(texts, str) else list(texts)).long()

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        pixels = self.transform.trimmed(pixels).to(self.device)
        if self.joint is not None:
            samples = pixels if pixels.ndim == 5 else pixels[:, None]  # (B, T, 3, H, W)
            return normalized(self.joint(self, samples), normalize)
        if self.reduction is not None:
            return normalized(self._image.project(self._image.hidden(pixels)), normalize)
        of_its_size = self.transform.takes((pixels.shape[-2], pixels.shape[-1]))
        if of_its_size and not self._prompted("image"):
            return normalized(self.encode_pixels(pixels), normalize)
        if "image_blocks" not in self.capabilities:
            raise ConfigError(
                f"pixels of shape {tuple(pixels.shape)} do not fit backbone '{self.spec}', which takes "
                f"{_taken(self.image_size)}; use its preprocess(), or load it with "
                f"image_size={as_image_size(tuple(pixels.shape[-2:]))}"
            )
        return self.pool_image(self.run_blocks("image", self.embed_image(pixels)), normalize)

    def encode_text(
        self, texts: Sequence[str] | Tensor, normalize: bool = True, lengths: np.ndarray | int | None = None
    ) -> Tensor:
        """As the base does; lengths as in `encode_measured`."""
        self.need_texts()
        tokens = (texts if isinstance(texts, Tensor) else self.tokenize(texts)).to(self.device)
        if self.text_prefix is not None:
            return self._encode_prefixed(tokens, normalize)
        if "trim" not in self.capabilities and not self._prompted("text"):
            return normalized(self.encode_tokens(tokens), normalize)
        mask, longest = self.token_mask(tokens), tokens.shape[1]
        if "trim" in self.capabilities and lengths is not None:
            longest = lengths if isinstance(lengths, int) else int(lengths.max(initial=1))
        elif "trim" in self.capabilities:
            longest = int(mask.sum(dim=1).max()) if len(mask) else 1
        return self.encode_prompt(self.embed_tokens(tokens[:, :longest]), mask[:, :longest], normalize)

    def encode_measured(self, tokens: Tensor, lengths: np.ndarray | int, normalize: bool = True) -> Tensor:
        return self.encode_text(tokens, normalize, lengths)

    def _encode_prefixed(self, tokens: Tensor, normalize: bool) -> Tensor:
        embeddings, mask = self.embed_tokens(tokens), self.token_mask(tokens)
        assert self.text_prefix is not None
        prefix = self.text_prefix.to(embeddings).expand(len(tokens), -1, -1)
        return self.encode_prompt(*insert_after_start(embeddings, mask, prefix, self.context_length), normalize)

    # Prompts ----------------------------------------------------------------------------------------------------

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        self.need("prompt")
        return self._text.table(tokens.to(self.device))

    def encode_prompt(self, embeddings: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        self.need("prompt")
        mask = mask.to(embeddings.device)
        x = self._run(self._text.blocks, self.embed_prompt(embeddings, mask), mask, self._text)
        return self.pool_text(x, mask, normalize)

    def embed_prompt(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        self.need("prompt")
        length = embeddings.shape[1]
        if length > self.context_length:
            raise ConfigError(
                f"a prompt of {length} tokens does not fit backbone '{self.spec}', which takes {self.context_length}; "
                "use fewer context tokens or shorter class names"
            )
        if length < self.context_length and "trim" not in self.capabilities:
            raise CapabilityError(
                f"backbone '{self.spec}' reads its text at all {self.context_length} positions; "
                f"this prompt has {length}, pad it"
            )
        return self._text.embed(embeddings, mask)

    def pool_text(self, x: Tensor, mask: Tensor, normalize: bool = True) -> Tensor:
        self.need("prompt")
        return normalized(self._text.pool(x, mask.to(x.device)), normalize)

    def attach_prompts(
        self,
        *,
        image: Tensor | nn.Module | None = None,
        text: Tensor | None = None,
        couplings: Sequence[nn.Linear] = (),
    ) -> TowerPrompts:
        of_text = None if text is None else PromptTokens(text)
        of_image = PromptTokens(image) if isinstance(image, Tensor) else image
        return self._hang(CoupledTokens(of_text, couplings) if couplings else of_image, of_text)

    def load_prompts(self, state: Mapping[str, Tensor]) -> TowerPrompts:
        """As `attach_prompts`, with the tokens and couplings of a state dict of `TowerPrompts`."""
        made = TowerPrompts.of(state)
        return self._hang(made.image, made.text)

    def _hang(self, image: nn.Module | None, text: PromptTokens | None) -> TowerPrompts:
        self._need_blocks_for(image is not None, text is not None)
        if image is not None and type(self._image).embed is not ImageTower.embed:  # it must be ours to hang tokens into
            return super().attach_prompts(image=image)
        if text is not None and text.count > self.context_length - LEAST_TEXT:
            raise ConfigError(
                f"{text.count} learned tokens leave no room for words in a text of backbone '{self.spec}', which takes "
                f"{self.context_length}; give fewer"
            )
        if self.prompts is not None:
            raise CapabilityError(
                f"backbone '{self.spec}' already has learned tokens in its towers; start from the one it came from"
            )
        made = TowerPrompts(image, text, 1 if text is None else self.start_tokens()).to(self.device)
        self.prompts = self.model.prompts = made.train(self.model.training)
        self._towers = None  # they were made without
        return made

    # Inside -----------------------------------------------------------------------------------------------------

    def blocks(self, tower: str) -> Sequence[Block]:
        return self._tower(tower).blocks

    def embed_image(self, pixels: Tensor) -> Tensor:
        self.need("image_blocks")
        return self._image.embed(pixels.to(self.device))

    def start_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, W): patches and what stands before them at their positions, before any norm."""
        self.need("image_blocks")
        return self._image.start(pixels.to(self.device))

    def run_blocks(self, tower, x, start=0, stop=None, *, insert=None, attention=None, mask=None):
        steps = self._tower(tower)
        stop = len(steps.blocks) if stop is None else stop
        numbered = [(i, steps.blocks[i]) for i in range(*slice(start, stop).indices(len(steps.blocks)))]
        chosen = [_hooked(i, block, insert, attention) for i, block in numbered]
        return self._run(chosen, x, mask, steps)

    def pool_image(self, x: Tensor, normalize: bool = True) -> Tensor:
        self.need("image_blocks")
        return normalized(self._image.project(self._image.pool(x)), normalize)

    def norm_tokens(self, x: Tensor) -> Tensor:
        """(B, T, W) after the last block -> (B, T, W'): each token as if it alone were pooled, not projected."""
        self.need("image_blocks")
        alone = x.reshape(-1, 1, x.shape[-1])  # (B * T, 1, W)
        return self._image.pool(alone).view(*x.shape[:2], -1)

    def hidden(self, pixels: Tensor) -> Tensor:
        self.need("hidden")
        return self._image.hidden(pixels.to(self.device)).float()

    def project(self, hidden: Tensor, normalize: bool = True) -> Tensor:
        """(..., W) image features before the projection, as `hidden` gives them -> (..., D)."""
        self.need("hidden")
        return normalized(self._image.project(hidden.to(self.device)), normalize)

    def image_positions(self) -> ImagePositions:
        positions = None if self._image is None else self._image.positions()
        return super().image_positions() if positions is None else positions

    def patch_layer(self) -> nn.Module:
        layer = None if self._image is None else self._image.patch_layer()
        return super().patch_layer() if layer is None else layer

    def attach_joint(self, joint: JointParts) -> JointParts:
        self.need("image_blocks")
        if self.joint is not None:
            raise CapabilityError(
                f"backbone '{self.spec}' already encodes the parts of a sample together; start from the one it came "
                "from"
            )
        self.joint = joint.to(self.device).train(self.model.training)
        setattr(self.model, JOINT, self.joint)
        return self.joint

    def image_projection(self) -> ProjectionMatrix | None:
        """What `project` does, without the towers; None where it is more than a matrix (embedded), or none (SigLIP)."""
        self.need("hidden")
        return self._image.matrix()

    def add_to_projection(self, change: Tensor) -> None:
        """Let `project` and `encode_image` add hidden @ change, (W, D), in place; CapabilityError if they cannot."""
        self.need("hidden")
        if not self._image.add_to_projection(change):
            raise CapabilityError(f"backbone '{self.spec}' has no projection of image features that could change")

    def image_tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        self.need("image_tokens")
        tokens, grid = self._image.tokens(pixels.to(self.device))
        return tokens.float(), grid

    def value_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        self.need("image_tokens")
        if "image_blocks" not in self.capabilities:
            tokens, keys, grid = self._image.tokens_and_keys(pixels.to(self.device))
            return tokens.float(), keys, grid
        compared = []

        def unmixed(number: int, block: Block, normal: Tensor) -> Tensor:
            _, key, value = block.qkv(normal).chunk(3, dim=-1)  # (B, T, W) each
            compared.append(block.out(key))
            return block.out(value)

        x, last, grid = self.embed_image(pixels), len(self.blocks("image")) - 1, self.image_grid(pixels)
        x = self.run_blocks("image", self.run_blocks("image", x, 0, last), last, attention=unmixed)
        count = grid[0] * grid[1]
        keys = compared[0][:, self.image_prefix : self.image_prefix + count]
        return self.project_patches(x)[:, :count], keys, grid

    def project_patches(self, x: Tensor) -> Tensor:
        """(B, T, W) after the last block -> (B, P, D): each patch as if it alone were pooled."""
        self.need("image_blocks")
        return self._image.project_patches(x).float()

    def image_grid(self, pixels: Tensor) -> tuple[int, int]:
        """(h, w) of the patches of (B, 3, H, W)."""
        self.need("image_blocks")
        return self._image.grid(pixels)

    @property
    def image_stride(self) -> int:
        """Pixels from one patch or cell of the image tower to the next."""
        self.need("image_tokens")
        return self._image.stride(min(height_and_width(self.image_size)))

    def image_outputs(self, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        """In one pass."""
        self.need("image_tokens" if "image_tokens" in names else "hidden")
        asked = names | {"image_features"} if "image_embedding" in names else names
        made = self._image.several(pixels.to(self.device), asked - {"image_embedding"})
        if "image_embedding" in names:
            made["image_embedding"] = made["image_features"]
        return {name: normalized(value, name == "image_features") for name, value in made.items() if name in names}

    @property
    def image_prefix(self) -> int:
        """Tokens of the image tower that stand before its patches."""
        self.need("image_blocks")
        return self._image.prefix

    def feature_maps(self, pixels: Tensor) -> list[Tensor]:
        self.need("feature_maps")
        return self._image.maps(pixels.to(self.device))

    def pooled_map(self, pixels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """As `ImageTower.pooled_map`, of (B, 3, S, S), for towers with "feature_maps" and without blocks."""
        self.need("feature_maps")
        return self._image.pooled_map(pixels.to(self.device))

    def pool_map(self, last: Tensor) -> Tensor:
        """(B, W, h, w), the last of `feature_maps` -> (B, 1 + h * w, D) in the shared space: the whole, then each cell.

        For towers without blocks; a ResNet's cells are pooled as its whole is (DenseCLIP, 2021, arXiv 2112.01518).
        """
        self.need("feature_maps")
        if "image_blocks" in self.capabilities:
            raise CapabilityError(
                f"backbone '{self.spec}' has blocks: use pool_image and project_patches after the last one"
            )
        return self._image.pool_map(last).float()

    def _tower(self, tower: str):
        if tower not in ("image", "text"):
            raise ConfigError(f"tower '{tower}' is not known; give image or text")
        self.need(f"{tower}_blocks")
        return self._image if tower == "image" else self._text

    def _run(self, blocks, x: Tensor, mask: Tensor | None, tower) -> Tensor:
        masked = getattr(tower, "masked", False) and mask is not None
        causal = getattr(tower, "causal", False)
        return run_through(blocks, x, mask=mask.to(x.device) if masked and mask is not None else None, causal=causal)

    @property
    def image_tower(self) -> ImageTower:
        """Its steps."""
        return self._image

    @property
    def text_tower(self) -> TextTower:
        """Its steps."""
        return self._text

    @property
    def _image(self) -> ImageTower:
        return self._opened()[0]

    @property
    def _text(self) -> TextTower:
        return self._opened()[1]

    def wrap_blocks(self, wrap: Callable[[Block], Block]) -> None:
        for tower in self._opened():
            if tower is not None:
                tower.blocks = [wrap(block) for block in tower.blocks]

    @property
    def vocab_size(self) -> int:
        """Words of the text tower."""
        self.need("prompt")
        return self._text.table.num_embeddings

    def _opened(self):
        if self._towers is None:
            towers = self.build_towers(self.model)
            if self.reduction is not None:
                towers[0].reduction = self.reduction
            self._towers = towers if self.prompts is None else self.prompts.inside(*towers, self.context_length)
        return self._towers

    def _prompted(self, tower: str) -> bool:
        return self.prompts is not None and getattr(self.prompts, tower) is not None


def _hooked(index: int, block: Block, insert, attention) -> Callable[..., Tensor]:
    """The block with what a caller puts before it and in place of its attention."""
    if insert is None and attention is None:
        return block

    def forward(x: Tensor, **kwargs) -> Tensor:
        x = x if insert is None else insert(index, x)
        return block(x, attention=None if attention is None else partial(attention, index, block), **kwargs)

    return forward


def _taken(size: ImageSize) -> str:
    return f"squares of {size}" if isinstance(size, int) else f"images of {size_in_words(size)}"


def _check_numbers(model: nn.Module, spec: str) -> None:
    """Raise DataError where a weight is no number: every feature would be none."""
    for name, weight in model.named_parameters():
        if unusable := not_finite(weight.detach()):
            raise DataError(
                f"backbone '{spec}': its weight {name} holds {unusable}; copy or download the weights again"
            )


def fingerprint(family: str, config: Any, weights: Any, transform: dict[str, Any]) -> str:
    """16 hex digits.

    Args:
        config: the architecture, JSON-able.
        weights: what identifies them: digests of files, or a registry's entry.
        transform: `Preprocess.spec`.
    """
    text = json.dumps([family, config, weights, transform], sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
