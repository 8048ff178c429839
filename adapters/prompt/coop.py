"""CoOp: learned context vectors around the class names, with both towers frozen.

Take it where classes are to be added later, with a GPU or patience, and to compare with papers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..published_sets import SETS, preset_option
from ._shared_context import SharedContext


@dataclass(eq=False, kw_only=True)
class Coop(SharedContext):
    """Context optimisation.

    Zhou et al., Learning to Prompt for Vision-Language Models, 2021, arXiv 2109.01134.

    Prompts `[V1] ... [VM] class name .` go through the frozen text tower; logits are the scaled cosines to the image
    features. Only the context V is trained, by SGD on the cross-entropy, with Dassl's warm-up and cosine. The model of
    the last step is kept; nothing is chosen on val. Published: 200 epochs for 8 and 16 shots, 100 for 2 and 4, 50 for 1
    (and for ImageNet at any number of shots: `preset=imagenet`).

    Where it differs from the released code: float32 instead of float16, and by default a stored pool of 10 augmented
    views per image, epoch e on view e modulo 10, so that no image tower runs while training. `fresh_views` encodes a
    new random crop and flip in every epoch, as published; `--protocol` and `--preset` turn it on. With `csc` and
    `ctx_init` every class starts from those words; the released code then ignores `csc`.

    Several labels per image: one sigmoid per label, binary cross-entropy. A cosine times the logit scale is not a
    calibrated logit, so that of each label is taken relative to its negative prompts (`classifier.negative`, fixed);
    without them to the backbone's logit bias, or else to the mean zero-shot score of the label over the support.

    Options, resources and errors are those of `SharedContext`.

    Example:
        >>> adapter = build_adapter("coop", n_ctx=4, epochs=2)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 instead of float16; by default 10 stored augmented views in turn instead of new ones (`fresh_views`); "
        "with `csc` and `ctx_init` each class starts from these words (the released code then ignores `csc`)"
    )
    multilabel: ClassVar[bool] = True
    default_epochs: ClassVar[tuple[tuple[int, int], ...]] = ((8, 200), (2, 100), (1, 50))
    of_imagenet: ClassVar[int] = 50

    presets: ClassVar[tuple[str, ...]] = SETS
    preset: str | None = preset_option()

    def _published_epochs(self, shots: int) -> int:
        return self.of_imagenet if self.preset == "imagenet" else super()._published_epochs(shots)
