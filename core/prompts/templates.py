"""Prompt templates: sentences with `{}` for the class name, and how their text features become one class weight.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, arXiv 2103.00020
(prompt ensembling).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ..contracts.errors import ConfigError

PHOTO: tuple[str, ...] = ("a photo of a {}.",)
"""What CLIP is asked where nothing is known of the domain."""

IMAGENET_SEVEN: tuple[str, ...] = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The subset of CLIP's 80 ImageNet templates that its authors chose, used by Tip-Adapter and APE."""


def fill(templates: Iterable[str], class_name: str) -> list[str]:
    """One text a template, with the class's name in place of every `{}`.

    Raises:
        ConfigError: a template without `{}`, or not a text.
    """
    name = spoken(class_name)
    return [template.replace("{}", name) for template in check_templates(templates)]


def ensemble(features: Tensor) -> Tensor:
    """(T, D) text features of one class -> (D,): each row made unit, then the mean. Not normalised again."""
    return F.normalize(features.float(), dim=-1).mean(dim=0)


def check_templates(templates: Iterable[str]) -> list[str]:
    """The templates as a list, each known to be usable.

    Raises:
        ConfigError: a template without `{}`, or not a text.
    """
    if isinstance(templates, str):
        templates = [templates]
    checked = list(templates)
    for template in checked:
        if not isinstance(template, str) or "{}" not in template:
            raise ConfigError(
                f"template {template!r} has no place for the class name; write {{}} there, as in 'a photo of a {{}}.'"
            )
    return checked


def spoken(class_name: str) -> str:
    """A class name as it is said: underscores are spaces."""
    return " ".join(class_name.replace("_", " ").split())
