"""VPT: learned tokens in the image tower, between its patches and its blocks; the text is unchanged.

Take it with a GPU, where images are unlike what the tower knows and the words are right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.contracts import Backbone, option
from ._inside_towers import TokenAdapter, random_tokens


@dataclass(eq=False, kw_only=True)
class Vpt(TokenAdapter):
    """Visual prompt tuning of a CLIP.

    Jia et al., Visual Prompt Tuning, 2022, arXiv 2203.12119, as Khattak et al. have it for CLIP in MaPLe: Multi-modal
    Prompt Learning, 2022, arXiv 2210.03117.

    n tokens follow the patches of every image, before the first norm and without positions; before block i, for 0 < i <
    depth, they are replaced by n others. Only they are trained, by cross-entropy on the scaled cosines to the first
    prompt of each class, whose features stay as they are. The last tokens are kept; nothing is chosen on val.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16), the domain's prompt
    in place of "a photo of a {}.", and its augmentation where it has one. Where a tower has fewer blocks than `depth`,
    all of them have tokens. After the last block the tokens are removed, so that a tower that pools over patches does
    not pool over them. In the original VPT, which has no text, they stand before the patches; attention does not see
    the order.

    Several labels per image: binary cross-entropy on the difference to the negative prompts.

    A depth of 1 is "shallow", more is "deep".

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Raises:
        CapabilityError: the image tower has no transformer blocks.

    Example:
        >>> adapter = build_adapter("vpt", epochs=1)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "float32 unless `amp` says otherwise (released: float16); any depth of tower; the domain's prompts and "
        'augmentation instead of "a photo of a {}."'
    )
    default_epochs: ClassVar[int] = 5

    n_ctx: int = option(8, "tokens after the patches", low=1, high=1024)
    depth: int = option(12, "blocks with their own tokens", low=1, high=1000)
    lr: float = 2.5e-3
    prompts_a_class: int | None = 1

    def _tokens(self, backbone: Backbone) -> dict[str, Tensor]:
        depth = min(self.depth, len(backbone.blocks("image")))
        return {"image": random_tokens(depth, self.n_ctx, backbone.width("image"))}
