"""A smaller model that starts from a part of a larger one's weights.

TinyCLIP: CLIP Distillation via Affinity Mimicking and Weight Inheritance, 2023, arXiv 2309.12314: of D blocks for d
every (D // d)-th from the front, of each weight the first heads and the first channels. DistilBERT (2019, arXiv
1910.01108) starts so too, with every second layer as wide as it was.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..errors import CapabilityError

STACKED = ("in_proj_weight", "in_proj_bias", "qkv.weight", "qkv.bias")
"""Ends of the names of weights that hold queries, keys and values, one below the other."""


@torch.no_grad()
def inherit(student: Backbone, teacher: Backbone) -> str:
    """Copy of the teacher's weights what the student has room for; returns a sentence on how much that was.

    A weight is copied where the teacher has one of its name, equal in each axis or wider in an axis of channels; others
    stay as they are: positions of other image sizes, for instance.

    Raises:
        CapabilityError: a tower has no blocks, fewer in the teacher than in the student, or other ones.
    """
    for backbone in (student, teacher):
        _towers(backbone)
    names, sizes, inherited, blocks = _names(student, teacher), _sizes(student, teacher), 0, 0
    theirs = teacher.model.state_dict()
    state = student.model.state_dict()
    for name, weight in state.items():
        source = theirs.get(names.get(name, name))
        part = None if source is None else _part(source, weight, name, sizes)
        if part is not None:
            weight.copy_(part)
            inherited += weight.numel()
            blocks += name in names
    if not blocks:
        raise CapabilityError(
            f"option inherit: '{student.spec}' and its teacher '{teacher.spec}' have no weights of one name; give a "
            "teacher of the same family, or inherit=no"
        )
    total = sum(weight.numel() for weight in state.values())
    return f"{inherited / total:.1%} of the weights start as the teacher's ({teacher.spec})."


def _towers(backbone: Backbone) -> list[str]:
    towers = ["image", "text"] if backbone.has_text else ["image"]
    for tower in towers:
        backbone.need(f"{tower}_blocks")
    return towers


def _names(student: Backbone, teacher: Backbone) -> dict[str, str]:
    """Weight of a block of the student -> that of the teacher's block it comes from."""
    names: dict[str, str] = {}
    for tower in [each for each in _towers(student) if each in _towers(teacher)]:
        ours, theirs = _places(student, tower), _places(teacher, tower)
        if len(ours) > len(theirs):
            raise CapabilityError(
                f"option inherit: the {tower} tower of '{student.spec}' has {len(ours)} blocks, and that of its "
                f"teacher '{teacher.spec}' {len(theirs)}; give a deeper teacher, or inherit=no"
            )
        step = len(theirs) // len(ours)
        for number, (place, module) in enumerate(ours):
            names |= {f"{place}.{name}": f"{theirs[number * step][0]}.{name}" for name in module.state_dict()}
    return names


def _places(backbone: Backbone, tower: str) -> list[tuple[str, nn.Module]]:
    """Name within the model, and module, of each block."""
    named = {id(module): name for name, module in backbone.model.named_modules()}
    modules = [block.module for block in backbone.blocks(tower)]
    return [(named[id(module)], module) for module in modules if module is not None and id(module) in named]


def _sizes(student: Backbone, teacher: Backbone) -> set[tuple[int, int]]:
    """(student's, teacher's) numbers of channels: of the shared space, of each tower, and within its blocks."""
    sizes = {(student.embed_dim, teacher.embed_dim)}
    for tower in [each for each in _towers(student) if each in _towers(teacher)]:
        ours, theirs = student.blocks(tower)[0], teacher.blocks(tower)[0]
        sizes.add((student.width(tower), teacher.width(tower)))
        sizes |= {(len(a), len(b)) for a, b in zip(ours.mlp.state_dict().values(), theirs.mlp.state_dict().values())}
    return sizes


def _part(source: Tensor, weight: Tensor, name: str, sizes: set[tuple[int, int]]) -> Tensor | None:
    """The first channels of a weight; None where it is not of the shape that another number of channels explains."""
    if name.endswith(STACKED):
        thirds = zip(source.chunk(3), weight.chunk(3))
        parts = [_part(one, other, "", sizes) for one, other in thirds]
        return None if any(part is None for part in parts) else torch.cat(parts)
    if source.ndim != weight.ndim:
        return None
    for ours, theirs in zip(weight.shape, source.shape):
        if ours != theirs and (ours > theirs or (ours, theirs) not in sizes):
            return None
    return source[tuple(slice(size) for size in weight.shape)]
