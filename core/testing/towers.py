"""Small towers that checks run on: one matrix per tower, for methods on features; and a CLIP of two blocks each."""

from __future__ import annotations

import hashlib
import json
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backbones.load import load_backbone, save_fine_tuned
from ..contracts.backbone import Backbone, normalized
from ..contracts.options import options_of
from ..registry import build_loss, loss_class
from ..training.model import dims_of
from .contract import Unchecked

PLAIN = "plain"
SIDE, HIDDEN, LETTERS = 8, 20, 16
WORDS = 49408
"""Of CLIP's vocabulary."""
NARROW = {"width": 16, "heads": 2, "layers": 1, "hidden": 16, "patch_layer": 1}
NARROW |= {"entity_width": 8, "entity_heads": 2, "entity_hidden": 8, "graph_width": 8, "graph_heads": 2}
NARROW |= {"decoder_width": 12, "decoder_layers": 1, "decoder_heads": 2}
"""Options that make a loss that answers fast, where it has them."""
SMALL_CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 2},
}


class PlainTowers(Backbone):
    """Images and texts through fixed random matrices, of any width. It needs no package and has no prompts or blocks.

    Args:
        width: D.
        channels: of an image.
    """

    def __init__(self, width: int = 24, channels: int = 3):
        self.spec = f"{PLAIN}:{width}"
        self.fingerprint = f"{PLAIN}-{width}"
        self.embed_dim, self.image_size, self.context_length = width, SIDE, LETTERS
        self.image_mean, self.image_std = (0.5,) * channels, (0.5,) * channels
        self.capabilities = frozenset({"hidden"})
        self.licence = "Apache-2.0"
        self.device = torch.device("cpu")
        generator = torch.Generator().manual_seed(width)
        shapes = {"hidden": (HIDDEN, channels * SIDE * SIDE), "image": (width, HIDDEN), "text": (width, LETTERS)}
        weights = {name: torch.randn(shape, generator=generator) / shape[1] ** 0.5 for name, shape in shapes.items()}
        self._model = nn.ParameterDict({n: nn.Parameter(w, requires_grad=False) for n, w in weights.items()}).eval()

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def logit_scale(self) -> Tensor:
        return torch.tensor(100.0, device=self.device)

    def preprocess(self, train: bool = False) -> PlainPixels:
        return PlainPixels(train)

    def tokenize(self, texts) -> Tensor:
        return torch.tensor([list(hashlib.sha256(text.encode()).digest()[:LETTERS]) for text in texts])

    def token_mask(self, tokens: Tensor) -> Tensor:
        return torch.ones_like(tokens, dtype=torch.bool)

    def hidden(self, pixels: Tensor) -> Tensor:
        return pixels.to(self.device).flatten(1) @ self._model["hidden"].T  # (B, HIDDEN)

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        return normalized(self.hidden(pixels) @ self._model["image"].T, normalize)

    def encode_text(self, texts, normalize: bool = True) -> Tensor:
        tokens = (texts if isinstance(texts, Tensor) else self.tokenize(texts)).to(self.device)
        return normalized((tokens.float() / 128 - 1) @ self._model["text"].T, normalize)


class PlainPixels:
    """Decoded image -> pixels (C, 8, 8), every n-th one; for training mirrored or not, as the seed says."""

    def __init__(self, train: bool):
        self.train = train
        self.spec = {"kind": PLAIN, "side": SIDE, "mirror": train}

    def __call__(self, image: Any, seed: int | None = None) -> Tensor:
        pixels = np.asarray(image)
        pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
        rows, columns = (np.linspace(0, length - 1, SIDE).round().astype(int) for length in pixels.shape[:2])
        small = torch.tensor(pixels[rows][:, columns], dtype=torch.float32).permute(2, 0, 1)  # (C, S, S)
        mirrored = self.train and seed is not None and np.random.default_rng(seed).random() < 0.5
        return ((small - 0.5) / 0.5).flip(2) if mirrored else (small - 0.5) / 0.5


def drawn_clip(config: dict[str, Any]) -> nn.Module:
    """open_clip's CLIP of a configuration, with random weights. Where it has few words, these have the vectors that
    they have among all of CLIP's, so that only the time of a training depends on how many there are."""
    import open_clip

    text = config["text_cfg"]
    model = open_clip.CLIP(**{**config, "text_cfg": {**text, "vocab_size": WORDS}})
    words, table = text["vocab_size"], model.token_embedding.weight.data
    model.token_embedding = nn.Embedding.from_pretrained(torch.cat([table[: words - 2], table[-2:]]), freeze=False)
    model.vocab_size = words
    return model


def write_small_clip(folder: Path) -> str:
    """A CLIP of two blocks per tower with random weights, D = 24, written to a folder; its spec.

    Word embeddings are scaled up, so that words matter to random towers.

    Raises:
        Unchecked: open_clip is not installed.
    """
    from safetensors.torch import save_file

    if find_spec("open_clip") is None:
        raise Unchecked(
            "the small towers of these checks need the package 'open_clip'; install it with: "
            "pip install 'vladapt[open-clip]', or give backbone="
        )
    (folder / "small.json").write_text(json.dumps(SMALL_CLIP))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = drawn_clip(SMALL_CLIP)
        model.token_embedding.weight.data.mul_(10)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


_small_clip_folder: list[tempfile.TemporaryDirectory] = []


@cache
def small_clip() -> Backbone:
    """The small CLIP of this process, whose files are removed when it ends."""
    _small_clip_folder.append(tempfile.TemporaryDirectory(prefix="vladapt-"))
    return load_backbone(write_small_clip(Path(_small_clip_folder[-1].name)), device="cpu")


@cache
def small_clip_with(loss: str) -> Backbone:
    """The small CLIP with a loss that answers (`Loss.answers`) beside its towers, as a training would write it."""
    backbone = small_clip()
    folder = tempfile.TemporaryDirectory(prefix="vladapt-")
    _small_clip_folder.append(folder)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        narrow = {each.name: NARROW[each.name] for each in options_of(loss_class(loss)) if each.name in NARROW}
        beside = build_loss(loss, dims_of(backbone, 1), **narrow)
    beside.prepare(backbone)
    backbone.answers, backbone.compares = {loss: beside.eval()}, False
    try:
        return load_backbone(str(save_fine_tuned(backbone, folder.name)), device="cpu")
    finally:
        backbone.answers, backbone.compares = {}, True


@cache
def plain_towers(width: int = 24) -> Backbone:
    """The plain towers of a width, of this process."""
    return PlainTowers(width)


@cache
def towers_of(spec: str) -> Backbone:
    """The backbone of a spec, plain towers among them."""
    family, _, width = spec.partition(":")
    return plain_towers(int(width)) if family == PLAIN else load_backbone(spec, device="cpu")
