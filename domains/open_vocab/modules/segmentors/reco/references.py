"""Reference embeddings of concepts in a file, with what they were made by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ......core.errors import ConfigError, DataError
from ......core.runtime import caching


class ReferenceFile:
    """Concepts and their reference embeddings, kept for the next process.

    Args:
        path: a .safetensors file, there or not yet; None keeps nothing.
        made_by: all that decides about an embedding, JSON-able.

    Raises:
        ConfigError: the file was made by other options. DataError: it is none of this kind.
    """

    def __init__(self, path: str | Path | None, made_by: dict[str, Any]):
        self.path, self.made_by = None if path is None else Path(path), made_by
        self._rows: dict[str, Tensor] = {}
        self._new = False
        if self.path is None:
            return
        if self.path.suffix != ".safetensors":
            raise ConfigError(f"references={self.path}: is written as .safetensors; name it so")
        if self.path.is_file():
            self._rows = self._read()

    def get(self, prompts: Sequence[str]) -> Tensor | None:
        """(D,) of the concept that these prompts ask for, or None."""
        return self._rows.get(_key(prompts))

    def put(self, prompts: Sequence[str], row: Tensor) -> None:
        """Keep a concept's embedding; `write` puts it into the file."""
        self._rows[_key(prompts)], self._new = row.detach().float().cpu(), True

    def write(self) -> None:
        """Write all there are, if some are new. Raises DataError where that is refused."""
        if self.path is None or not self._new:
            return
        facts = {"made_by": json.dumps(self.made_by), "concepts": json.dumps(list(self._rows))}
        with caching(self.path) as file:
            file.write(save({"references": torch.stack(list(self._rows.values()))}, metadata=facts))

    def _read(self) -> dict[str, Tensor]:
        try:
            with safe_open(str(self.path), framework="pt") as file:
                facts, rows = file.metadata() or {}, file.get_tensor("references")
            made_by, concepts = json.loads(facts["made_by"]), json.loads(facts["concepts"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise DataError(f"references={self.path}: not a file of references ({reason}); give another name") from None
        other = [name for name in self.made_by if made_by.get(name) != self.made_by[name]]
        if other:
            raise ConfigError(
                f"references={self.path}: made with another {', '.join(other)}; give another file, or the same options"
            )
        self.made_by = {**made_by, **self.made_by}
        return dict(zip(concepts, rows.unbind(0), strict=True))


def _key(prompts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


# "ReCo: Retrieve and Co-segment for Zero-shot Transfer" (2022, arXiv 2206.07045).


def likeness(features: Tensor, embeddings: Tensor, scale: float = 1.0) -> Tensor:
    """How like each of some embeddings a place is, 0..1: the sigmoid of a scaled cosine.

    Args:
        features: (B, D, h, w).
        embeddings: (Q, D).
        scale: what cosines are multiplied by.

    Returns:
        (B, Q, h, w).
    """
    unit = F.normalize(features.float(), dim=1)
    cosines = torch.einsum("bdhw,qd->bqhw", unit, F.normalize(embeddings.to(unit), dim=-1))
    return torch.sigmoid(scale * cosines)


def without_context(features: Tensor, contexts: Tensor) -> Tensor:
    """How little a place looks like what is around everywhere: a product over the contexts, (B, h, w) in 0..1.

    Args:
        features: (B, D, h, w).
        contexts: (N, D) reference embeddings of the contexts.
    """
    return (1 - likeness(features, contexts)).prod(dim=1)


@torch.no_grad()
def cosegment(
    features: Tensor, weights: Tensor | None = None, *, rows_at_once: int = 1024, released_windows: bool = False
) -> tuple[Tensor, Tensor]:
    """The reference embedding of what images show in common.

    A place is compared with all places of all images, whose cosines count by their weights; of each image the best one
    is taken, and the mean over the images says how common the place is. The most common place of each image is its
    seed; the reference is the mean of the seeds' features, made unit. No more than `rows_at_once` rows of the
    adjacency are in memory.

    Args:
        features: (k, D, h, w) of the k images.
        weights: (k, h, w) in 0..1; None is 1 everywhere.
        rows_at_once: changes nothing but speed and memory.
        released_windows: the best place of image i is looked for from its own first place to one that lies as far
            behind its own last one, as the released code does by mistake: later images are looked for in each other.

    Returns:
        (D,) unit, and (k,) the index of the seed among the h * w places of each image.
    """
    with torch.autocast(features.device.type, enabled=False):
        places = features.float().flatten(2).transpose(1, 2)  # (k, P, D)
        unit = F.normalize(places, dim=-1).flatten(0, 1)  # (k * P, D)
        counts = unit.new_ones(len(unit)) if weights is None else weights.float().flatten()  # (k * P,)
        common = torch.cat(
            [_common(rows, unit, counts, len(places), released_windows) for rows in unit.split(rows_at_once)]
        )
        seeds = common.view(len(places), -1).argmax(dim=1)  # (k,)
        chosen = places[torch.arange(len(places), device=seeds.device), seeds]  # (k, D)
        return F.normalize(chosen.mean(dim=0), dim=0), seeds


def _common(rows: Tensor, unit: Tensor, counts: Tensor, images: int, released_windows: bool) -> Tensor:
    """(R, D) places -> (R,): the mean over the images of how well each is found in them."""
    alike = (rows @ unit.T) * counts  # (R, k * P)
    if not released_windows:
        return alike.unflatten(1, (images, -1)).amax(dim=2).mean(dim=1)
    size = alike.shape[1] // images
    best = [alike[:, i * size : i * size + (i + 1) * size].amax(dim=1) for i in range(images)]
    return torch.stack(best, dim=1).mean(dim=1)
