"""The default backbone: it needs a Python package index and nothing else.

EfficientNet-Lite0 sees, all-MiniLM-L6-v2 reads, `Alignment` joins them in closed form. No pair of an image and a
text was ever shown to it, so zero-shot is real only for what ImageNet names; few-shot methods see its image features
whole.

What was chosen, and on what (`python benchmarks/embedded_alignment.py` prints the numbers). The map: Procrustes +
ConSE, texts centred, finds 35.9 % of ImageNet names held out of the fit among 200 (Procrustes 34.8, ConSE 33.4, ridge
31.2). The logit scale: 15 between aligned features has the least cross-entropy there; it is divided by cos(phi). Phi:
at 0, 75, 85, 88 and 89 degrees the mean of Tip-Adapter at 1 and 4 shots per class on parts of Clothing, Grocery Store,
WHU-RS19 and COCO is 31, 35, 44, 50 and 53 %, APE's 44, 48, 49, 54 and 57, APE-T's 47, 62, 59, 54 and 51: published
alphas weigh the cache against texts that tell classes apart better than these do, and 1 / cos(phi) makes up for it;
but the logit scale grows with it, and so do the steps of methods that train text features. The mean of the three
still rises from 88 to 89 (52.6 to 53.5); 88 is a judgement, as APE-T loses three points more beyond it and Tip-
Adapter at 4 shots falls from 39 to 31 % on COCO crops, where zero-shot has 53. That last set shows the price of a
large phi: where ImageNet names the classes, a few shots can do worse than none (at 75 degrees it is 52 %).
"""

from __future__ import annotations

import functools
import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..contracts.families import FAMILIES
from ..contracts.images import ImageSize, height_and_width
from ..errors import ConfigError, DataError, UnknownNameError
from ..runtime.process import cache_folder
from . import packaged
from .checkpoints import file_digests, fit_weights, read_checkpoint
from .preprocessing import Preprocess
from .specs import check_family_packages
from .tower_steps import ImageTower, TextTower
from .two_tower import TwoTower, fingerprint

PHI = 88.0
CONSE_NAMES = 10
CONSE_TEMPERATURE = 2.0
ALIGNED_LOGIT_SCALE = 15.0
LOGIT_SCALE = ALIGNED_LOGIT_SCALE / math.cos(math.radians(PHI))
IMAGE_SIZE = 224
SMALLEST_IMAGE = 32
BEST_BATCH_SIZE = 4
TEXT_BATCH = 128
BESIDE = "alignment.beside"
NOTES = (
    "backbone 'embedded' never saw an image with its text: zero-shot works only for things ImageNet names (animals, "
    "vehicles, household things, food), few-shot methods for all, as they learn from image features",
)


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> EmbeddedBackbone:
    """The backbone, its towers not yet built.

    Raises:
        UnknownNameError: something stands after "embedded".
        ConfigError: image_size below 32.
        CapabilityError: a package of `vladapt[embedded]` is not installed.
    """
    if rest:
        raise UnknownNameError(f"unknown backbone '{spec}'; the only embedded backbone is 'embedded'")
    if image_size is not None and min(height_and_width(image_size)) < SMALLEST_IMAGE:
        raise ConfigError(f"image_size={image_size} is too small for 'embedded'; give {SMALLEST_IMAGE} or more")
    check_family_packages(spec, "embedded")
    return EmbeddedBackbone(device=device, image_size=image_size or IMAGE_SIZE)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> EmbeddedBackbone:
    """The backbone with weights that were trained here."""
    return EmbeddedBackbone(device, image_size or description["image_size"], weights, spec)


class EmbeddedBackbone(TwoTower):
    """Image features are `[cos(phi) P(x); sin(phi) x / |x|]`, times |x| where they are not normalised; texts `[t; 0]`.

    So unnormalised image features hold sin(phi) times the pooled features x of the tower, on their own scale, and
    `hidden` gives x itself, (B, 1280). All methods take pixels of any size from 32 on but `encode_image`, which takes
    its own.

    Attributes:
        notes: sentences a user should read before trusting a number.
        best_batch_size: images per batch at which the image tower is fastest on a CPU.
    """

    family = "embedded"
    embed_dim = packaged.TEXT_WIDTH + packaged.WIDTH
    context_length = packaged.CONTEXT_LENGTH
    mask_token = packaged.MASK
    word_ids = packaged.WORDS
    capabilities = FAMILIES["embedded"]["capabilities"]
    licence = "Apache-2.0 (EfficientNet-Lite0; all-MiniLM-L6-v2)"
    best_batch_size = BEST_BATCH_SIZE

    def __init__(
        self,
        device: torch.device | str = "cpu",
        image_size: ImageSize = IMAGE_SIZE,
        weights: Path | None = None,
        spec: str = "embedded",
    ):
        super().__init__()
        self.device, self.weights, self.spec = torch.device(device), weights, spec
        self.transform = Preprocess(image_size, packaged.MEAN, packaged.STD)
        self.fingerprint = _fingerprint(self.transform, weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences a user should read; once it was trained on pairs, the first is no longer so."""
        return NOTES if self.weights is None else ()

    @property
    def description(self) -> dict:
        """All but the weights, JSON-able."""
        return {"image_size": self.image_size}

    def save_companions(self, folder: Path) -> None:
        """Nothing: the packages hold the rest."""

    def build_model(self) -> nn.Module:
        towers = _Towers(packaged.load_efficientnet(), packaged.load_minilm(), load_alignment(PHI))
        if self.weights is not None:
            state = read_checkpoint(self.weights)
            if BESIDE in state:
                towers.alignment.beside = torch.empty_like(state[BESIDE])
            fit_weights(towers, state, self.weights, "the embedded backbone")
        return towers

    def build_towers(self, model: nn.Module) -> tuple[ImageTower, TextTower]:
        return _ImageTower(model), _TextTower(model)

    def classifier_of_names(self) -> tuple[list[str], Tensor, Tensor]:
        """EfficientNet's own, on the part of the features that is the tower's."""
        head, shared = self.model.image.classifier, self.model.alignment
        rows = F.pad(head.weight.detach() / shared.sine, (packaged.TEXT_WIDTH, 0))
        return class_names(), rows, head.bias.detach()

    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        return packaged.load_tokenizer()

    def token_mask(self, tokens: Tensor) -> Tensor:
        return tokens != packaged.PAD

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self._image.project(self._image.hidden(pixels))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        mask = self.token_mask(tokens)
        return self.model.alignment.text(self.model.text(tokens, mask))

    def encode_text(
        self, texts: Sequence[str] | Tensor, normalize: bool = True, lengths: np.ndarray | int | None = None
    ) -> Tensor:
        """As the base does, in batches of texts of like length where each one's is known."""
        if isinstance(lengths, int):
            return super().encode_text(texts, normalize, lengths)
        tokens = (texts if isinstance(texts, Tensor) else self.tokenize(texts)).to(self.device)
        if not len(tokens):
            return torch.zeros(0, self.embed_dim, device=self.device)
        if lengths is None:
            lengths = self.token_mask(tokens).sum(dim=1).cpu().numpy()
        order, parts = np.argsort(lengths, kind="stable"), []
        for start in range(0, len(order), TEXT_BATCH):
            rows = order[start : start + TEXT_BATCH]
            parts.append(super().encode_text(tokens[torch.from_numpy(rows).to(self.device)], normalize, lengths[rows]))
        return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(self.device)]


class _Towers(nn.Module):
    def __init__(self, image: nn.Module, text: nn.Module, shared: Alignment):
        super().__init__()
        self.image = image
        self.text = text
        self.alignment = shared
        self.logit_scale = nn.Parameter(torch.tensor(math.log(LOGIT_SCALE)))


class _ImageTower(ImageTower):
    def __init__(self, model: _Towers):
        self.network, self.alignment = model.image, model.alignment

    def hidden(self, pixels: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, 1280): the last map's mean
        return self.network(pixels).float().mean(dim=(2, 3))

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        last = self.network(pixels).float()  # (B, 1280, h, w)
        return self.project(last.flatten(2).transpose(1, 2)), tuple(last.shape[2:])

    def several(self, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        last = self.network(pixels).float()
        made = {"image_hidden": last.mean(dim=(2, 3)), "image_tokens": last.flatten(2).transpose(1, 2)}
        made["image_features"] = made["image_hidden"]
        return {name: made[name] if name == "image_hidden" else self.project(made[name]) for name in names}

    def maps(self, pixels: Tensor) -> list[Tensor]:
        return self.network.maps(pixels)

    def pooled_map(self, pixels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return self.network(pixels).float(), lambda last: self.project(last.mean(dim=(2, 3)))

    def pool_map(self, last: Tensor) -> Tensor:
        cells = self.network.head(last).float().flatten(2).transpose(1, 2)  # (B, P, 1280)
        return self.project(torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1))

    def project(self, hidden: Tensor) -> Tensor:
        """(..., 1280) -> (..., 1664). In float32 under autocast too: the ten best names hang on small differences."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            return self.alignment.image(hidden, self.network.classifier(hidden))

    def add_to_projection(self, change: Tensor) -> bool:
        self.alignment.add_beside(change)
        return True


class _TextTower(TextTower):
    masked = True

    def __init__(self, model: _Towers):
        self.network, self.alignment = model.text, model.alignment
        self.blocks = model.text.blocks()
        self.table = model.text.words

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return self.network.embed(embeddings)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.alignment.text(packaged.mean_over(x.float(), mask))


def _fingerprint(transform: Preprocess, trained: Path | None) -> str:
    if trained is not None:
        return fingerprint("embedded", PHI, file_digests([trained]), transform.spec)
    weights = [packaged.WEIGHTS.sha256, packaged.TEXT_WEIGHTS.sha256, packaged.TOKENIZER.sha256]
    shared = [VERSION, CONSE_NAMES, CONSE_TEMPERATURE, PHI, ALIGNED_LOGIT_SCALE]
    return fingerprint("embedded", shared, weights, transform.spec)


# Of classes that both towers know, one by a visual prototype and one by their names, two maps from image features x (S)
# to the text tower's space (T) follow in closed form, and their unit sum P(x) is used:
# * orthogonal Procrustes (Schonemann, 1966, "A generalized solution of the orthogonal Procrustes problem"): the
# rotation that turns unit prototypes into the embeddings of their names; * ConSE ("Zero-Shot Learning by Convex
# Combination of Semantic Embeddings", 2013, arXiv 1312.5650): the mean of the embeddings of the 10 most probable
# names, weighted by probability at a temperature, which is 2 for the head of `embedded`.
# Name embeddings are centred on their mean, and so is every text: what all texts have in common tells no class apart.


class Alignment(nn.Module):
    """The shared space: image `[cos(phi) P(x); sin(phi) x / |x|]`, text `[t; 0]`.

    An image-text cosine sees only P(x), an image-image cosine sees P(x) and, the more the nearer phi is to 90 degrees,
    the image features as they are.

    Args:
        rotation: (S, T), orthonormal columns, or rows where S < T.
        names: (C, T) unit rows, the centred embeddings of the class names.
        centre: (T,) mean of the unit embeddings of the names.
        phi: angle in degrees, 0 to below 90.
        temperature: at which class logits become ConSE's weights.

    Attributes:
        beside: (S, T + S) linear map of image features that is added to the closed form, or None: what few labels
            taught on top of it.
    """

    beside: Tensor | None

    def __init__(
        self, rotation: Tensor, names: Tensor, centre: Tensor, phi: float, temperature: float = CONSE_TEMPERATURE
    ):
        super().__init__()
        self.cosine, self.sine = math.cos(math.radians(phi)), math.sin(math.radians(phi))
        self.temperature = temperature
        self.register_buffer("rotation", rotation)
        self.register_buffer("names", names)
        self.register_buffer("centre", centre)
        self.register_buffer("beside", None)

    def in_text_space(self, x: Tensor, class_logits: Tensor) -> Tensor:
        """P(x): (..., S) image features and their (..., C) class logits -> (..., T) unit rows."""
        best = class_logits.topk(min(CONSE_NAMES, len(self.names)), dim=-1)
        weights = torch.softmax(best.values / self.temperature, dim=-1)
        conse = (weights.unsqueeze(-1) * self.names[best.indices]).sum(dim=-2)
        return F.normalize(F.normalize(conse, dim=-1) + F.normalize(x @ self.rotation, dim=-1), dim=-1)

    def image(self, x: Tensor, class_logits: Tensor) -> Tensor:
        """(..., S) and (..., C) -> (..., T + S) in the shared space, each of the length of its x."""
        length = x.norm(dim=-1, keepdim=True)
        shared = torch.cat([self.cosine * length * self.in_text_space(x, class_logits), self.sine * x], dim=-1)
        return shared if self.beside is None else shared + x @ self.beside

    def add_beside(self, change: Tensor) -> None:
        """Add (S, T + S) to the linear map beside the closed form, which is there from then on and in the state."""
        before = torch.zeros_like(change, device=self.rotation.device) if self.beside is None else self.beside
        self.beside = before + change.to(before)

    def text(self, pooled: Tensor) -> Tensor:
        """(N, T) texts -> (N, T + S) in the shared space, not normalised."""
        centred = F.normalize(pooled, dim=-1) - self.centre
        return F.pad(centred, (0, len(self.rotation)))


def fit_alignment(prototypes: Tensor, names: Tensor) -> dict[str, Tensor]:
    """The closed form.

    Args:
        prototypes: (C, S) rows of the classifier.
        names: (C, T) unit embeddings of the C class names.

    Returns:
        rotation (S, T), names (C, T) centred unit rows, centre (T,).
    """
    centre = names.mean(dim=0)
    centred = F.normalize(names - centre, dim=-1)
    u, _, v = torch.linalg.svd(F.normalize(prototypes, dim=-1).T @ centred, full_matrices=False)
    return {"rotation": (u @ v).contiguous(), "names": centred, "centre": centre}


# Row c of the image tower's 1000-class head is a visual prototype of a class whose name the text tower can read.

VERSION = 1  # raised when the alignment changes, so that kept files and fingerprints of older ones no longer match


def load_alignment(phi: float) -> Alignment:
    """The alignment of the two packaged towers. Its tensors are kept in the cache folder and made where absent."""
    return Alignment(**_tensors(), phi=phi)


def class_names() -> list[str]:
    """The names of the head's 1000 classes, in its order."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])


@torch.no_grad()
def embed_names(tower: packaged.MiniLM, tokenize, names: list[str]) -> Tensor:
    """(C, 384) unit embeddings, computed in batches of like length: names take from 3 to 11 tokens."""
    tokens = tokenize(names)
    lengths = (tokens != packaged.PAD).sum(dim=1)
    order = lengths.argsort(stable=True)
    rows = []
    for part in order.split(128):
        batch = tokens[part, : int(lengths[part].max())]
        rows.append(tower(batch, batch != packaged.PAD))
    return F.normalize(torch.cat(rows)[order.argsort()], dim=-1)


@functools.cache
def _tensors() -> dict[str, Tensor]:
    """Made once per process, kept for the next one."""
    path = kept_file()
    stored = _read(path)
    if stored is not None:
        return stored
    head_rows = packaged.load_efficientnet().classifier.weight
    made = fit_alignment(head_rows, embed_names(packaged.load_minilm(), packaged.load_tokenizer(), class_names()))
    _keep(path, made)
    return made


def kept_file() -> Path:
    """Where the tensors are kept: their name says which weights and which closed form they are of."""
    stated = f"{VERSION} {packaged.WEIGHTS.sha256} {packaged.TEXT_WEIGHTS.sha256} {packaged.TOKENIZER.sha256}"
    digest = hashlib.sha256(stated.encode()).hexdigest()[:16]
    return cache_folder("backbones") / f"embedded-alignment-{digest}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    """What was kept, or None where there is nothing or it is damaged: it is then made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("rotation", "names", "centre")}
            expected = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        return _damaged(path, error)
    return tensors if expected == _digest(tensors) else _damaged(path, "sha256 differs")


def _damaged(path: Path, reason: object) -> None:
    warnings.warn(f"{path}: damaged ({reason}); it is computed again", stacklevel=2)


def _keep(path: Path, tensors: dict[str, Tensor]) -> None:
    from ..runtime.files import write_cached

    try:
        write_cached(path, save(tensors, metadata={"sha256": _digest(tensors)}))
    except DataError as error:
        warnings.warn(f"the alignment of backbone 'embedded' is computed again at each start: {error}", stacklevel=2)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
