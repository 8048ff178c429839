"""The functions of mmcv 2.1's compiled extension over torchvision and plain torch, one file per operator family.

Others than `OPERATORS`, which no packaged mmdet or mmsegmentation config needs, are there to import and refused on use.
"""

from __future__ import annotations

from collections.abc import Callable

from .....core.errors import CapabilityError
from . import (  # noqa: F401 (their operators enter themselves)
    carafe,
    deform_conv,
    deform_roi_pool,
    focal_loss,
    masked_conv,
    ms_deform_attn,
    nms,
    psamask,
    roi_align,
    roi_align_rotated,
    roi_pool,
    rotated_boxes,
)
from .precision import OPERATORS as OPERATORS


def refusing(name: str) -> Callable:
    """An operator that raises CapabilityError naming itself, whatever it is called with.

    Raises:
        AttributeError: it is a name that Python asks of every module.
    """
    if name.startswith("__"):
        raise AttributeError(name)

    def refuse(*args, **kwargs):
        raise CapabilityError(
            f"mmcv operator {name!r} is not among those vladapt offers without a compiler; install a compiled mmcv "
            "(pip uninstall mmcv-lite; pip install 'mmcv>=2.0.0rc4,<2.2.0'), which is then used by itself"
        )

    refuse.__name__ = refuse.__qualname__ = name
    return refuse
