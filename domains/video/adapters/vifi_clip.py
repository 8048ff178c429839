"""ViFi-CLIP: both towers fine-tuned on clips whose frames are averaged.

Take it for clips with a GPU, as the plain baseline of trained towers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....core.contracts import Backbone, has
from ._clip_towers import ClipTowerAdapter
from ._mixing import WARMUP_SHARE, Mixing


@dataclass(eq=False, kw_only=True)
class VifiClip(ClipTowerAdapter):
    """Fine-tuned CLIP Models are Efficient Video Learners (Rasheed et al., 2022, arXiv 2212.03640).

    A plain CLIP: the features of the frames are averaged before they are made unit, and both towers and the logit scale
    are trained by cross-entropy over the classes, whose first prompts are encoded anew in each step. Nothing is added,
    so that before the first step it is frame averaging, exactly.

    Published for few shots, and the defaults here: AdamW with a rate of 2e-6, weight decay 0.001 (published: of vectors
    too), 50 epochs, 5 of warm-up, a cosine down to a hundredth, batches of 64 clips of 32 frames, label smoothing 0.1,
    and mixup or CutMix on each batch (`mixup`, `cutmix`). For Kinetics: 2.2e-5, 30 epochs, batches of 512 clips of 16
    frames. The domain sets the number of frames per clip (`--frames`).

    Several labels per clip: binary cross-entropy on the difference to the negative prompts.

    Classes with unequal numbers of clips count alike (`class_weight`); published is "none".

    Raises:
        ConfigError: an option out of range.
        CapabilityError: the image tower has no transformer blocks.

    Example:
        >>> adapter = build_adapter("vifi-clip", epochs=1, batch_size=4)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "no fixture: its features are those of a plain CLIP; the training is checked against an explicit loop. The "
        "domain's prompts, crops and colours instead of the published ones, which the recipe takes; float32 unless "
        "`amp` says otherwise; the learning rate changes every step, as one cosine after the warm-up"
    )
    default_epochs: ClassVar[int] = 50

    mixing = has(Mixing)
    warmup: float = WARMUP_SHARE
    batch_size: int = 64
    lr: float = 2e-6
    weight_decay: float = 1e-3
    prompts_a_class: int | None = 1

    def _joint(self, backbone: Backbone) -> None:
        return None
