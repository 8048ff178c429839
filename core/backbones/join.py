"""An image tower and a text tower that were not trained together, in a space that makes them comparable: `join:A+B`, or
the folder that `vladapt join` wrote."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts.backbone import OF_TEXTS, Backbone
from ..contracts.families import SPACE as CHILD
from ..contracts.images import ImageSize
from ..errors import CapabilityError, ConfigError, DataError
from ..runtime.files import write_tensors, write_whole
from ..runtime.reading import read_json
from .checkpoints import file_digests, fit_weights, read_checkpoint
from .lexical import lexical_space
from .shared_spaces import SharedSpace, built_space
from .spec_options import Reduction
from .text_towers import TextSide, text_side
from .tower_steps import ImageTower, TextTower
from .two_tower import TwoTower, fingerprint

FILE, SPACE = "joined.json", "space.safetensors"
FORMAT = 1
SCALE = 100.0
OF_SIDES = {f"{CHILD}.of_image.": "image", f"{CHILD}.of_text.": "text"}
"""Where a space has a layer for one side -> its tower."""


def build(rest: str, *, spec: str, device: torch.device, image_size: ImageSize | None) -> JoinedBackbone:
    """The backbone of a folder, or of two towers whose space is made of names that both know.

    Raises:
        ConfigError: neither. CapabilityError: the image tower knows no names. DataError: a folder that is damaged, or
            whose towers are others than when it was made.
    """
    if (Path(rest).expanduser() / FILE).is_file():
        return _of_folder(Path(rest).expanduser(), spec, device, image_size)
    image, text = split_towers(rest)
    towers, side = _loaded(image, device, image_size), text_side(text, lambda each: _loaded(each, device))
    space, about = lexical_space(towers, side)
    return JoinedBackbone(towers, side, space, about["scale"], spec)


def rebuild(
    description: dict, weights: Path, *, spec: str, device: torch.device, image_size: ImageSize | None
) -> JoinedBackbone:
    """The backbone of towers that were trained here, as one."""
    towers = _loaded(description["image"], device, image_size)
    side = text_side(description["text"], lambda each: _loaded(each, device), **description["reading"])
    space = built_space(description["space"], description["settings"])
    backbone = JoinedBackbone(towers, side, space, SCALE, spec)
    backbone.trained = weights
    backbone.fingerprint = fingerprint("join", description, file_digests([weights]), towers.preprocess().spec)
    return backbone


def split_towers(rest: str) -> tuple[str, str]:
    """(image, text) of "A+B".

    Raises:
        ConfigError: it names no two.
    """
    image, plus, text = rest.partition("+")
    if not (image and plus and text) or "+" in text:
        raise ConfigError(
            f"backbone 'join:{rest}' is not usable; give join:IMAGE+TEXT, or a folder that `vladapt join` wrote"
        )
    return image, text


def _loaded(spec: str, device: torch.device, image_size: ImageSize | None = None) -> Any:
    from .load import load_backbone  # which asks this file for a backbone of this family

    return load_backbone(spec, device, image_size)


class JoinedBackbone(TwoTower):
    """Two towers in one space.

    Args:
        towers: whose images are taken.
        side: whose texts are taken.
        space: that they share.
        scale: the logit scale of their cosines.
        spec: by which it is loaded again.
    """

    family = "join"

    def __init__(self, towers: TwoTower, side: TextSide, space: SharedSpace, scale: float, spec: str):
        super().__init__()
        if not isinstance(towers, TwoTower):
            raise CapabilityError(f"--image {towers.spec}: gives no features of its own; give the towers themselves")
        self.towers, self.side, self.space, self.scale, self.spec = towers, side, space, scale, spec
        self.device, self.transform, self.channels = towers.device, towers.transform, towers.channels
        self.in_rows = towers.in_rows
        self.reduction = towers.reduction
        self.embed_dim, self.context_length = space.dim, side.context_length
        self.capabilities = (towers.capabilities - OF_TEXTS) | side.capabilities
        self.licence = " + ".join(dict.fromkeys([towers.licence, side.licence]))
        self.trained: Path | None = None
        self.notes = [note for note in towers.notes if towers.spec != "embedded"]
        shared = [space.kind, space.settings, digest(space), scale, towers.fingerprint]
        self.fingerprint = fingerprint("join", shared, side.identity, towers.preprocess().spec)

    @property
    def description(self) -> dict[str, Any]:
        return {
            "image": self.towers.spec,
            "text": self.side.spec,
            "reading": self.side.settings,
            "space": self.space.kind,
            "settings": self.space.settings,
        }

    def save_companions(self, folder: Path) -> None:
        """Nothing: both towers are built again by their specs."""

    def build_model(self) -> nn.Module:
        model = JoinedTowers(self.towers.model, self.side.module(), self.space, self.scale)
        if self.trained is not None:
            fit_weights(model, read_checkpoint(self.trained), self.trained, f"the joined towers {self.spec}")
        return model

    def build_towers(self, model: nn.Module) -> tuple[ImageTower, TextTower]:
        return JoinedImageTower(self.towers.image_tower, model.space), JoinedTextTower(
            self.side.tower(model.text), model.space
        )

    def build_tokenizer(self) -> Callable[[list[str]], Tensor]:
        return self.side.tokenizer()

    def token_mask(self, tokens: Tensor) -> Tensor:
        return self.side.token_mask(tokens)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        return self.model.space.image(self.towers.encode_image(pixels, normalize=False))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        return self.model.space.text(self.side.encode(self.model.text, tokens))

    def merge_tokens(self, reduction: Reduction) -> None:
        """In the image tower."""
        self.towers.merge_tokens(reduction)
        super().merge_tokens(reduction)

    widen = Backbone.widen  # of the image tower, it would have to be joined anew

    def tower_of(self, name: str) -> str:
        """A layer of the space that is of one side belongs to that side's tower."""
        return next((tower for part, tower in OF_SIDES.items() if f"{name}.".startswith(part)), super().tower_of(name))

    def image_weights(self) -> list[nn.Parameter]:
        """Without those of the image tower's own texts."""
        of_space = [f"{CHILD}.{name}" for name, _ in self.model.space.named_parameters()]
        own = [self.model.get_parameter(name) for name in of_space if self.tower_of(name) == "image"]
        return [*self.towers.image_weights(), *own]

    def own_texts(self) -> Backbone | None:
        if not self.towers.has_text:
            return None
        if not self.space.keeps_images:
            raise CapabilityError(
                f"backbone '{self.spec}': its images were moved into another space, which the texts of "
                f"{self.towers.spec} know nothing of; make it by `vladapt join --sentences FILE`, or by --untrained "
                "text-head"
            )
        own = deepcopy(self.towers)
        own.model.requires_grad_(False).eval()
        return own

    def to(self, device) -> Backbone:
        self.towers.device = torch.device(device)
        return super().to(device)

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the space, and by which specs its towers are found again.

        Args:
            facts: of how it was made, JSON-able, which are shown and never needed.
        """
        named = {**self.description, "scale": self.scale, "of": self.origins, "made": facts, "format": FORMAT}
        write_tensors(folder / SPACE, self.space.state_dict(), {"format": "pt"})
        write_whole(folder / FILE, json.dumps(named, indent=2, ensure_ascii=False) + "\n")

    @property
    def origins(self) -> dict[str, Any]:
        """What tells its two towers and their space from any others."""
        text = fingerprint("text", self.side.identity, "", {})
        return {"image": self.towers.fingerprint, "text": text, "space": digest(self.space)}


class JoinedTowers(nn.Module):
    """Both towers, their space and its logit scale."""

    def __init__(self, image: nn.Module, text: nn.Module, space: nn.Module, scale: float):
        super().__init__()
        self.image, self.text, self.space = image, text, space
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))


class JoinedImageTower(ImageTower):
    """The steps of another tower, projected into the shared space.

    What `project` of that tower does comes first: its features are what the space was made for.
    """

    def __init__(self, tower: ImageTower, space: SharedSpace):
        self.tower, self.space = tower, space
        self.opens, self.blocks, self.prefix, self.cell = tower.opens, tower.blocks, tower.prefix, tower.cell

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        return self.tower.grid(pixels)

    def start(self, pixels: Tensor) -> Tensor:
        return self.tower.start(pixels)

    def enter(self, x: Tensor) -> Tensor:
        return self.tower.enter(x)

    def pool(self, x: Tensor) -> Tensor:
        return self.tower.pool(x)

    def project(self, hidden: Tensor) -> Tensor:
        return self.space.image(self.tower.project(hidden))

    def positions(self):
        return self.tower.positions()

    def patch_layer(self) -> nn.Module | None:
        return self.tower.patch_layer()

    def project_patches(self, x: Tensor) -> Tensor:
        return self.space.image(self.tower.project_patches(x))

    def hidden(self, pixels: Tensor) -> Tensor:
        if type(self.tower).hidden is ImageTower.hidden:
            return super().hidden(pixels)  # through its own blocks, which may be wrapped or take learned tokens
        return self.tower.hidden(pixels)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = self.tower.tokens(pixels)
        return self.space.image(tokens), grid

    def tokens_and_keys(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        tokens, keys, grid = self.tower.tokens_and_keys(pixels)
        return self.space.image(tokens), keys, grid

    def stride(self, size: int) -> int:
        return self.tower.stride(size)

    def pool_map(self, last: Tensor) -> Tensor:
        return self.space.image(self.tower.pool_map(last))

    def pooled_map(self, pixels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        last, pooled = self.tower.pooled_map(pixels)
        return last, lambda each: self.space.image(pooled(each))

    def maps(self, pixels: Tensor) -> list[Tensor]:
        return self.tower.maps(pixels)


class JoinedTextTower(TextTower):
    """The steps of another tower, projected into the shared space."""

    def __init__(self, tower: TextTower, space: SharedSpace):
        self.tower, self.space = tower, space
        self.blocks, self.causal, self.masked, self.table = tower.blocks, tower.causal, tower.masked, tower.table

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        return self.tower.embed(embeddings, mask)

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.space.text(self.tower.pool(x, mask))


def digest(space: SharedSpace) -> str:
    """Of its weights."""
    made = hashlib.sha256()
    for name, value in sorted(space.state_dict().items()):
        made.update(f"{name} {tuple(value.shape)}".encode())
        made.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return made.hexdigest()


def _of_folder(folder: Path, spec: str, device: torch.device, image_size: ImageSize | None) -> JoinedBackbone:
    named = read_json(folder / FILE)
    try:
        image, text, reading, scale = (named[key] for key in ("image", "text", "reading", "scale"))
        kind, settings, origins = named["space"], named["settings"], named["of"]
    except (KeyError, TypeError) as error:
        raise DataError(f"{folder / FILE}: damaged ({error}); join the towers again") from None
    towers, side = _loaded(image, device, image_size), text_side(text, lambda each: _loaded(each, device), **reading)
    space = built_space(kind, settings)
    fit_weights(space, read_checkpoint(folder / SPACE), folder / SPACE, f"a space of the kind {kind}")
    if digest(space) != origins.get("space"):
        raise DataError(f"{folder}: {SPACE} is not the space that {FILE} tells of; join the towers again")
    backbone = JoinedBackbone(towers, side, space, float(scale), spec)
    for tower, place in (("image", image), ("text", text)):
        sized = tower == "image" and image_size is not None  # of another size it has another fingerprint
        if not sized and backbone.origins[tower] != origins.get(tower):
            raise DataError(
                f"{folder}: was made with another {tower} tower than {place} is now; join them again, or bring back "
                "the one that it was made with"
            )
    return backbone
