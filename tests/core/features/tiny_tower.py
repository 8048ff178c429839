"""A two-tower model of one matrix each, that counts what it is asked; generated images and clips."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import Backbone, DomainData, Item, Label

SIZE = 8
DIM = 5


class Transform:
    """Decoded image -> pixels (3, 8, 8); with a seed, brightened by a random amount."""

    def __init__(self, gain: float = 1.0):
        self.spec = {"kind": "tiny", "gain": gain}
        self.gain = gain

    def __call__(self, image, seed: int | None = None) -> Tensor:
        step = max(1, image.shape[0] // SIZE)
        pixels = torch.from_numpy(image[::step, ::step][:SIZE, :SIZE].astype(np.float32) / 255).permute(2, 0, 1)
        if seed is not None:
            pixels = pixels + torch.rand((), generator=torch.Generator().manual_seed(seed))
        return pixels * self.gain


class Frames(Transform):
    """(T, H, W, 3) -> (T, 3, S, S); an image (H, W, 3) -> (3, S, S)."""

    def __init__(self):
        super().__init__()
        self.spec = {"kind": "frames"}

    def __call__(self, decoded, seed=None):
        if decoded.ndim == 3:
            return super().__call__(decoded, seed)
        return torch.stack([super(Frames, self).__call__(frame, seed) for frame in decoded])


class TinyTower(Backbone):
    """Counts images and texts that go through it, and the sizes of the batches; can be told to fail."""

    def __init__(self, name: str = "tiny", seed: int = 0):
        self.spec = self.fingerprint = name
        self.embed_dim, self.image_size, self.context_length = DIM, SIZE, 16
        self.image_mean, self.image_std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.capabilities = frozenset({"hidden"})
        self.device = torch.device("cpu")
        self.images = self.texts = 0
        self.batches: list[int] = []
        self.before_batch = lambda batch: None
        self._seed = seed
        self._model = None

    @property
    def model(self) -> nn.Module:
        if self._model is None:
            torch.manual_seed(self._seed)
            layers = {"hidden": nn.Linear(3 * SIZE * SIZE, 7), "image": nn.Linear(7, DIM), "text": nn.Linear(16, DIM)}
            self._model = nn.ModuleDict(layers).eval().requires_grad_(False)
        return self._model

    @property
    def logit_scale(self) -> Tensor:
        _ = self.model
        return torch.tensor(50.0)

    def preprocess(self, train: bool = False) -> Transform:
        return Transform()

    def tokenize(self, texts) -> Tensor:
        return torch.tensor([list(hashlib.sha256(t.encode()).digest()[:16]) for t in texts])

    def token_mask(self, tokens: Tensor) -> Tensor:
        return torch.ones_like(tokens, dtype=torch.bool)

    def hidden(self, pixels: Tensor) -> Tensor:
        self.before_batch(len(pixels))
        self.images += len(pixels)
        self.batches.append(len(pixels))
        return self.model["hidden"](pixels.flatten(1)).tanh()

    def encode_image(self, pixels: Tensor, normalize: bool = True) -> Tensor:
        features = self.model["image"](self.hidden(pixels)).float()
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, texts, normalize: bool = True) -> Tensor:
        self.texts += len(texts)
        features = self.model["text"](self.tokenize(texts).float() / 255).float()
        return F.normalize(features, dim=-1) if normalize else features


class Unbuildable(TinyTower):
    """A backbone whose model must not be touched."""

    @property
    def model(self) -> nn.Module:
        raise AssertionError("the model was asked for")


def drawn_set(count: int, side: int = SIZE, start: int = 0, load=None) -> DomainData:
    """`count` generated images of side x side pixels, told apart by a digest; labels alternate."""

    def draw(item: Item) -> np.ndarray:
        rng = np.random.default_rng(int(item.id))
        return np.tile(rng.integers(0, 256, (1, side, 3), dtype=np.uint8), (side, 1, 1))

    items = [
        Item(str(i), "generated", {"digest": hashlib.sha256(str(i).encode()).hexdigest()}, target=Label(i % 2))
        for i in range(start, start + count)
    ]
    return DomainData(items, ("even", "odd"), load or draw)


def drawn_clip(index: int, length: int) -> np.ndarray:
    rng = np.random.default_rng(1000 + index)
    return rng.integers(0, 256, (length, SIZE, SIZE, 3), dtype=np.uint8)


def clip_set(lengths, load=None) -> DomainData:
    """Clips of so many frames; of length 0 an image as it is. Remembers what it decodes, in `decoded`."""
    data = drawn_set(len(lengths))
    images = data.load
    data.decoded = []

    def draw(item: Item) -> np.ndarray:
        data.decoded.append(item.id)
        length = lengths[int(item.id)]
        return drawn_clip(int(item.id), length) if length else images(item)

    data.load = load or draw
    digests = [hashlib.sha256(f"{i} of {length}".encode()).hexdigest() for i, length in enumerate(lengths)]
    data.items = [item.with_(decode={"digest": digest}) for item, digest in zip(data.items, digests)]
    return data
