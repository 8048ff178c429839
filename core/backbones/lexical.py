"""The space of two towers from names that both know, without a single pair of an image and a text.

The image tower knows a name by texts of its own (CLIP), or by a row of its classifier. SITTA: A Semantic Image-Text
Alignment for Image Captioning, 2023, arXiv 2307.05591, calls this lexical matching; the map is that of `embedded`
(`Alignment`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CapabilityError, ConfigError, DataError
from ..runtime.files import read_tensors, write_tensors
from ..runtime.process import cache_folder
from .embedded import CONSE_TEMPERATURE, Alignment, fit_alignment
from .shared_spaces import LexicalSpace
from .text_towers import TextSide
from .tower_maps import best_scale
from .two_tower import TwoTower, fingerprint

PHI = 88.0
"""As `embedded`: texts see the map alone, and methods for few labels the image features as they are."""
PROMPTS = ("a photo of a {}.", "a {} in the wild.", "a drawing of a {}.", "a close-up photo of a {}.")
"""By which an image tower with texts is asked for a name; the text tower that it is joined with reads the name."""
HELD_OUT = 5
"""Every so manieth name is left out where the logit scale is measured."""
LEAST_CLASSES = 2 * HELD_OUT
"""Of a classifier, for a space of its names."""
AT_ONCE = 256
KNOWN = {"scale", "found", "held_out"}
VERSION = 1  # raised when the space changes, so that what was kept of an older one no longer matches


def lexical_space(
    towers: TwoTower, side: TextSide, names: Sequence[str] = (), phi: float = PHI
) -> tuple[LexicalSpace, dict[str, float]]:
    """The space, and what is known of it: "scale" (the logit scale of its cosines), "found" and "held_out" (the share
    of names told rightly among those that were left out, and how many these are). It is kept in the cache folder, and
    made where absent.

    Args:
        towers: whose images are taken.
        side: whose texts are taken.
        names: further than those that ImageNet has; an image tower knows these only if it has texts of its own.
        phi: of `Alignment`.

    Raises:
        CapabilityError: the image tower knows no names.
    """
    classes = _Classes.of(towers, names)
    file = _kept_file(towers, side, classes.names, phi)
    try:
        header, state = read_tensors(file) if file.is_file() else (None, {})
    except DataError:
        header = None  # damaged: it is made again
    if not isinstance(header, dict) or not set(header) >= KNOWN:
        header = None
    if header is not None:
        fitted = {name.removeprefix("alignment."): value for name, value in state.items()}
        return _built(classes, **fitted, phi=phi), header
    texts = F.normalize(encoded_by_tower(side, classes.names), dim=-1)
    fitted, held_out = fit_alignment(classes.rows, texts), _held_out(classes, texts, phi)
    scale = best_scale(held_out.seen, held_out.read)
    about = {"scale": scale, "found": held_out.found, "held_out": len(held_out.read)}
    with suppress(DataError, OSError):  # else there is nowhere to keep it
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, {f"alignment.{name}": value for name, value in fitted.items()}, about)
    return _built(classes, **fitted, phi=phi), about


class _Classes:
    """Classes that an image tower tells apart.

    Args:
        names: of them.
        rows: (C, S), what each looks like.
        biases: (C,).
        unit: whether rows are compared by cosine.
    """

    def __init__(self, names: list[str], rows: Tensor, biases: Tensor, unit: bool):
        self.names, self.rows, self.biases, self.unit = names, rows, biases, unit

    @classmethod
    def of(cls, towers: TwoTower, names: Sequence[str]) -> _Classes:
        from .embedded import class_names

        head = towers.classifier_of_names()
        if head is not None and names:
            raise ConfigError(
                f"--names: --image {towers.spec} tells apart the classes of its own classifier, and no others; omit it"
            )
        if head is not None and len(head[0]) < LEAST_CLASSES:
            raise CapabilityError(
                f"--image {towers.spec}: its classifier tells {len(head[0])} classes apart, and a space of names takes "
                f"{LEAST_CLASSES} or more; give `vladapt join` images with texts, --pairs DATA"
            )
        if head is not None:
            return cls(*head, unit=False)
        if not towers.has_text:
            raise CapabilityError(
                f"--image {towers.spec}: knows no names, by texts or by a classifier; give `vladapt join` images with "
                "texts, --pairs DATA"
            )
        everything = list(dict.fromkeys([*class_names(), *names]))
        asked = [[prompt.format(name) for prompt in PROMPTS] for name in everything]
        with torch.no_grad():
            rows = F.normalize(towers.text_means(asked), dim=-1).cpu() * float(towers.logit_scale)
        return cls(everything, rows, torch.zeros(len(rows)), unit=True)


def _built(classes: _Classes, rotation: Tensor, names: Tensor, centre: Tensor, phi: float) -> LexicalSpace:
    classifier = nn.Linear(classes.rows.shape[1], len(classes.rows))
    with torch.no_grad():
        classifier.weight.copy_(classes.rows)
        classifier.bias.copy_(classes.biases)
    temperature = 1.0 if classes.unit else CONSE_TEMPERATURE
    return LexicalSpace(Alignment(rotation, names, centre, phi, temperature), classifier, phi, classes.unit)


@dataclass(frozen=True)
class _HeldOut:
    """Names that a space was not made of, seen by what they look like.

    Args:
        seen: (H, T + S), what they look like in the space.
        read: (H, T + S), their names in it.
    """

    seen: Tensor
    read: Tensor

    @property
    def found(self) -> float:
        """Share whose own name is the nearest of all held-out ones."""
        cosines = F.normalize(self.seen, dim=1) @ F.normalize(self.read, dim=1).T
        return float((cosines.argmax(dim=1) == torch.arange(len(cosines))).float().mean())


@torch.no_grad()
def _held_out(classes: _Classes, texts: Tensor, phi: float) -> _HeldOut:
    """Every fifth name, in a space made of the others."""
    left = torch.arange(len(texts)) % HELD_OUT == 0
    taught = _Classes([], classes.rows[~left], classes.biases[~left], classes.unit)
    space = _built(taught, **fit_alignment(classes.rows[~left], texts[~left]), phi=phi)
    return _HeldOut(space.image(classes.rows[left]), space.text(texts[left]))


@torch.no_grad()
def encoded_by_tower(side: TextSide, texts: Sequence[str]) -> Tensor:
    """(N, T) features of texts, not normalised, on the CPU."""
    module, tokens = side.module().eval(), side.tokenizer()(list(texts))
    lengths = side.token_mask(tokens).sum(dim=1)
    order = lengths.argsort(stable=True)
    rows = []
    for part in order.split(AT_ONCE):
        longest = int(lengths[part].max()) if "trim" in side.capabilities else tokens.shape[1]
        rows.append(side.encode(module, tokens[part, :longest]).float().cpu())
    return torch.cat(rows)[order.argsort()]


def _kept_file(towers: TwoTower, side: TextSide, names: Sequence[str], phi: float) -> Path:
    stated = json.dumps([VERSION, towers.fingerprint, fingerprint("text", side.identity, "", {}), list(names), phi])
    return cache_folder("backbones") / f"joined-{hashlib.sha256(stated.encode()).hexdigest()[:16]}.safetensors"
