"""How the embedded backbone's two towers come to share a space without an image: through 1000 class names.

Row c of the image tower's 1000-class head is a visual prototype of a class whose name the text tower can read. Two maps
from image features x (1280) to text space (384) follow in closed form, and their unit sum P(x) is used:

* orthogonal Procrustes (Schonemann, 1966, "A generalized solution of the orthogonal Procrustes problem"): the rotation
  that turns unit head rows into the embeddings of their names;
* ConSE ("Zero-Shot Learning by Convex Combination of Semantic Embeddings", 2013, arXiv 1312.5650): the mean of the
  embeddings of the 10 most probable names, weighted by probability at temperature 2.

Name embeddings are centred on their mean, and so is every text: what all texts have in common tells no class apart.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import DataError
from . import packaged

CONSE_NAMES = 10
CONSE_TEMPERATURE = 2.0
VERSION = 1  # raised when the maps below change, so that kept files and fingerprints of older ones no longer match


class Alignment(nn.Module):
    """The shared space: image `[cos(phi) P(x); sin(phi) x / |x|]`, text `[t; 0]`.

    An image-text cosine sees only P(x), an image-image cosine sees P(x) and, the more the nearer phi is to 90 degrees,
    the image features as they are.

    Args:
        rotation: (1280, 384), orthonormal columns.
        names: (1000, 384) unit rows, the centred embeddings of the head's class names.
        centre: (384,) mean of the unit embeddings of the names.
        phi: angle in degrees, 0 to below 90.

    Attributes:
        beside: (1280, 1664) linear map of image features that is added to the closed form, or None: what few labels
            taught on top of it.
    """

    def __init__(self, rotation: Tensor, names: Tensor, centre: Tensor, phi: float):
        super().__init__()
        self.cosine, self.sine = math.cos(math.radians(phi)), math.sin(math.radians(phi))
        self.register_buffer("rotation", rotation)
        self.register_buffer("names", names)
        self.register_buffer("centre", centre)
        self.register_buffer("beside", None)

    def in_text_space(self, x: Tensor, class_logits: Tensor) -> Tensor:
        """P(x): (..., 1280) image features and their (..., 1000) head logits -> (..., 384) unit rows."""
        best = class_logits.topk(CONSE_NAMES, dim=-1)
        weights = torch.softmax(best.values / CONSE_TEMPERATURE, dim=-1)
        conse = (weights.unsqueeze(-1) * self.names[best.indices]).sum(dim=-2)
        return F.normalize(F.normalize(conse, dim=-1) + F.normalize(x @ self.rotation, dim=-1), dim=-1)

    def image(self, x: Tensor, class_logits: Tensor) -> Tensor:
        """(..., 1280) and (..., 1000) -> (..., 1664) in the shared space, each of the length of its x."""
        length = x.norm(dim=-1, keepdim=True)
        shared = torch.cat([self.cosine * length * self.in_text_space(x, class_logits), self.sine * x], dim=-1)
        return shared if self.beside is None else shared + x @ self.beside

    def add_beside(self, change: Tensor) -> None:
        """Add (1280, 1664) to the linear map beside the closed form, which is there from then on and in the state."""
        own = torch.zeros_like(change, device=self.rotation.device) if self.beside is None else self.beside
        self.beside = own + change.to(own)

    def text(self, pooled: Tensor) -> Tensor:
        """(N, 384) pooled texts -> (N, 1664) in the shared space, not normalised."""
        centred = F.normalize(pooled, dim=-1) - self.centre
        return F.pad(centred, (0, len(self.rotation)))


def load_alignment(phi: float) -> Alignment:
    """The alignment of the two packaged towers. Its tensors are kept in the cache folder and made where absent."""
    return Alignment(**_tensors(), phi=phi)


def fit_alignment(head_rows: Tensor, names: Tensor) -> dict[str, Tensor]:
    """The closed form.

    Args:
        head_rows: (C, 1280) rows of the classifier.
        names: (C, 384) unit embeddings of the C class names.

    Returns:
        rotation (1280, 384), names (C, 384) centred unit rows, centre (384,).
    """
    centre = names.mean(dim=0)
    centred = F.normalize(names - centre, dim=-1)
    u, _, v = torch.linalg.svd(F.normalize(head_rows, dim=-1).T @ centred, full_matrices=False)
    return {"rotation": (u @ v).contiguous(), "names": centred, "centre": centre}


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
    """Made once a process, kept for the next one."""
    path = kept_file()
    kept = _read(path)
    if kept is not None:
        return kept
    head_rows = packaged.load_efficientnet().classifier.weight
    made = fit_alignment(head_rows, embed_names(packaged.load_minilm(), packaged.load_tokenizer(), class_names()))
    _keep(path, made)
    return made


def kept_file() -> Path:
    """Where the tensors are kept: their name says which weights and which closed form they are of."""
    root = Path(os.environ.get("VLADAPT_CACHE") or Path.home() / ".cache" / "vladapt")
    stated = f"{VERSION} {packaged.WEIGHTS.sha256} {packaged.WEIGHTS.sha256} {packaged.TOKENIZER.sha256}"
    return root / "backbones" / f"embedded-alignment-{hashlib.sha256(stated.encode()).hexdigest()[:16]}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    """What was kept, or None where there is nothing or it is damaged: it is then made again."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("rotation", "names", "centre")}
            told = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        return _damaged(path, error)
    return tensors if told == _digest(tensors) else _damaged(path, "sha256 differs")


def _damaged(path: Path, reason: object) -> None:
    warnings.warn(f"{path}: damaged ({reason}); it is made again", stacklevel=2)


def _keep(path: Path, tensors: dict[str, Tensor]) -> None:
    from ..runtime.files import write_cached

    try:
        write_cached(path, save(tensors, metadata={"sha256": _digest(tensors)}))
    except DataError as error:
        warnings.warn(f"the alignment of backbone 'embedded' is made again at each start: {error}", stacklevel=2)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
