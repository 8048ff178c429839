"""The few-shot protocol that methods are published for: shots, its eleven sets, the option that selects settings."""

from __future__ import annotations

from typing import Any

from ..core.contracts import option
from ..core.errors import UnknownNameError, did_you_mean

MOST_SHOTS = 16
"""Shots per class, at most."""

_SPELLINGS = {
    "caltech101": "caltech",
    "dtd": "describable_textures",
    "eurosat": "euro_sat",
    "fgvc_aircraft": "fgvc aircraft",
    "food101": "food",
    "imagenet": "imagenet1k",
    "oxford_flowers": "flowers flowers102 oxford_flowers102",
    "oxford_pets": "pets oxford_iiit_pets",
    "stanford_cars": "cars",
    "sun397": "sun",
    "ucf101": "ucf",
}

SETS = tuple(_SPELLINGS)
"""Names of the sets that have a published setting."""
_SPELLINGS_OF_VARIANTS = {
    "imagenet_a": "imagenet_adversarial",
    "imagenet_r": "imagenet_rendition",
    "imagenet_sketch": "imagenet_s sketch",
    "imagenet_v2": "imagenet_v imagenetv2",
}
VARIANTS = tuple(_SPELLINGS_OF_VARIANTS)
"""Names of the variants of ImageNet, for which some methods publish settings."""


def set_name(name: str) -> str:
    """The protocol's name of a set in any usual spelling ("Flowers102", "oxford-flowers").

    Raises:
        UnknownNameError: no set has that name; the message has the nearest right ones.
    """
    plain = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    for known, others in {**_SPELLINGS, **_SPELLINGS_OF_VARIANTS}.items():
        if plain == known or plain in others.split():
            return known
    raise UnknownNameError(f"no data set with published settings has that name; {did_you_mean(plain, _SPELLINGS)}")


def preset_option(*sets: str) -> Any:
    """The option `preset` of a method that publishes other settings for some sets, which its `presets` names.

    Args:
        sets: those that it may be; by default `SETS`.
    """
    help = "published set whose settings are used, shared options as papers have them; none: the general ones"
    return option(None, help, choices=sets or SETS, parse=set_name)
