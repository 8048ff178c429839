"""mmengine, mmdet and mmsegmentation from wheels alone: what they lack without compiled mmcv and with today's torch.

What is mended, and where: mmcv's operators (`finder`, `mmcv_ext`), checkpoints (`safe_loading`), packaged configs
(`packaged_configs`), BERT in GLIP and Grounding DINO (`language_models`), what mmdet takes from packages that do not
have it (`absent_names`), or that are not installed (`track_matching`).
"""

from __future__ import annotations

from ....core.errors import CapabilityError
from ..doctor import CURE, faults

PACKAGES = ("mmcv", "mmdet", "mmseg")


def install() -> None:
    """Make mmdet and mmsegmentation importable; idempotent, and before any of them is imported.

    Raises:
        CapabilityError: mmengine, mmcv, mmdet or mmseg is missing, or of a version that does not go with the rest.
    """
    wrong = faults()
    if wrong:
        raise CapabilityError(f"detection and segmentation need mmdet and mmseg: {', '.join(wrong)}; {CURE}")
    from .absent_names import mend_absent_names
    from .import_hooks import offer_operators
    from .language_models import mend_language_models
    from .packaged_configs import find_packaged_configs
    from .safe_loading import allow_checkpoints
    from .track_matching import mend_track_matching

    offer_operators()
    allow_checkpoints()
    find_packaged_configs()
    mend_language_models()
    mend_absent_names()
    mend_track_matching()
