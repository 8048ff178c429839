"""MaPLe: learned tokens in both towers; those of the image tower are projected from those of the text tower.

Take it where classes are to be added later, with a GPU: both towers learn, at several times the cost of `coop`.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from ...core.contracts import Backbone, TrainingImages, has, option
from ._inside_towers import TEXT_BLOCKS, TextTokens, TokenAdapter


@dataclass(eq=False, kw_only=True)
class Maple(TokenAdapter):
    """Multi-modal prompt learning.

    Khattak et al., MaPLe: Multi-modal Prompt Learning, 2022, arXiv 2210.03117.

    n tokens stand between the start and the words of every text; before block i of the text tower, for 0 < i < depth,
    they are replaced by n others. A linear map per block makes from them the tokens that follow the patches in the
    image tower, and those before its block i. Tokens and maps are trained by cross-entropy; the towers stay frozen. The
    last ones are kept; nothing is chosen on val.

    Where it differs from the released code: float32 unless `amp` says otherwise (published: fp16), any widths and
    depths of towers (published: 512, 768 and 12; with fewer blocks all of them have tokens), and the domain's
    augmentation where it has one. As published, the words are "a photo of a" whatever the data: with two tokens in
    place of the first two, a class's text continues with "of a NAME.". More tokens than `ctx_init` has start at random,
    before "NAME.".

    Several labels per image: binary cross-entropy on the difference to the negative prompts, which the tokens precede
    as well.

    Published: 9 blocks with tokens, 3 for transfer between data sets. Tokens without words start from N(0, 0.02^2).

    Classes with unequal numbers of images count alike (`class_weight`); published is "none". With equal classes nothing
    differs.

    Raises:
        ConfigError: the tokens end inside a word of `ctx_init`, or leave no place for words.
        CapabilityError: a tower has no transformer blocks.

    Example:
        >>> adapter = build_adapter("maple", epochs=1)
        >>> report = adapter.fit(support, classifier, backbone=backbone, resources={"images": training})
        >>> adapter.logits(Batch(pixels=pixels)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = "as vpt; also any widths (released: 512 and 768)"
    default_epochs: ClassVar[int] = 5
    backbone_needs: ClassVar[frozenset[str]] = TEXT_BLOCKS
    fixed: ClassVar = {"prompts_a_class": None}

    words = has(TextTokens)
    n_ctx: int = option(2, "tokens of the text tower, and as many of the image tower", low=1, high=1024)
    depth: int = option(9, "blocks of both towers with their own tokens", low=1, high=1000)
    lr: float = 3.5e-3

    def _class_texts(self, images: TrainingImages, backbone: Backbone) -> tuple[list[list[str]], list[str]]:
        return self.words.class_texts(self, backbone, self.n_ctx)

    def _tokens(self, backbone: Backbone) -> dict[str, Any]:
        depth = min(self.depth, *(len(backbone.blocks(tower)) for tower in ("image", "text")))
        text = self.words.start(backbone, depth, self.n_ctx)
        widths = (backbone.width("text"), backbone.width("image"))
        first, later = nn.Linear(*widths), nn.Linear(*widths)  # all but the first start alike, as published
        couplings = [first, *(deepcopy(later) for _ in range(depth - 1))]
        return {"text": text, "couplings": couplings}
