"""A broad vocabulary of things, for images whose classes nobody named."""

from __future__ import annotations

from functools import cache

from ..errors import CapabilityError


@cache
def broad_vocabulary() -> tuple[str, ...]:
    """The names of ImageNet-21k's classes as timm has them, of several synonyms the first, each once.

    Raises:
        CapabilityError: timm is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        raise CapabilityError(
            "the words of ImageNet-21k come with the package 'timm'; install it with: pip install timm, or give "
            "--resource vocabulary=FILE"
        ) from None
    info = ImageNetInfo("imagenet-21k")
    names = (info.index_to_description(index) for index in range(info.num_classes()))
    return tuple(dict.fromkeys(name.split(",")[0].strip() for name in names))
