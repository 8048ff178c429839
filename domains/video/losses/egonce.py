"""EgoNCE: clips of the same action are positives, another moment of the same video is a negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.contracts import Loss, Output, option

NEGATIVE = frozenset({"image_negative", "text_negative", "verbs_negative", "nouns_negative"})


@dataclass(eq=False, repr=False, kw_only=True)
class Egonce(Loss):
    """Egocentric Video-Language Pretraining (EgoVLP; Lin et al., 2022, arXiv 2206.01670).

    The positives of a row are itself and every other that shares at least one verb and one noun with it. L is minus the
    mean log of the share that positives have of the row's softmax, plus the same of the columns (a sum, not halved).
    Texts without a verb, or without a noun, share nothing.

    `scene_negatives` brings another clip of the same video with each sample, and its text: all 2B are rows and columns.
    Whoever makes the pairs must draw a clip that is near in time and not the same; if it
    shows the same action, it is a positive.

    Needs two columns of the pairs, `verbs` and `nouns`: one number per class, 0 if a text lacks it. With
    `scene_negatives` also `verbs_negative` and `nouns_negative`.

    Example:
        >>> import torch, vladapt
        >>> out = {name: torch.eye(4) for name in ("image_features", "text_features", "verbs", "nouns")}
        >>> loss = vladapt.build_loss("egonce", temperature=1.0)
        >>> round(float(loss(out)["loss"]), 3)
        1.487
    """

    differs: ClassVar[str] = "none; the released pre-training may draw the sample itself as a scene negative"
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "verbs", "nouns"})
    of_products: ClassVar[bool] = True
    outputs: ClassVar[Mapping[str, Output]] = {
        "verbs": Output("which verbs the text has", ("B", "verbs"), "raw", column="verbs"),
        "nouns": Output("which nouns the text has", ("B", "nouns"), "raw", column="nouns"),
        "verbs_negative": Output("those of the scene's other text", ("B", "verbs"), "raw", column="verbs_negative"),
        "nouns_negative": Output("those of the scene's other text", ("B", "nouns"), "raw", column="nouns_negative"),
    }

    temperature: float = option(0.05, "what cosines are divided by", above=0, high=100)
    positives: str = option("both", "what two texts must share to be positives", choices=("both", "noun", "verb"))
    scene_negatives: bool = option(False, "add another clip of the same video to each sample, as a negative")

    def __post_init__(self):
        super().__post_init__()
        if self.scene_negatives:
            self.needs = self.needs | NEGATIVE

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        texts, clips = self._with_negatives(out, "text_features"), self._with_negatives(out, "image_features")
        shared = self.shared(self._with_negatives(out, "verbs"), self._with_negatives(out, "nouns"))
        scores = texts @ clips.T / self.temperature
        parts = {"text_to_image": share_of(scores, shared), "image_to_text": share_of(scores.T, shared)}
        return {"loss": parts["text_to_image"] + parts["image_to_text"], **parts}

    def shared(self, verbs: Tensor, nouns: Tensor) -> Tensor:
        """(B, V) and (B, N) multi-hot -> (B, B) bool: who is whose positive."""
        by = {"verb": verbs @ verbs.T > 0, "noun": nouns @ nouns.T > 0}
        alike = by["verb"] & by["noun"] if self.positives == "both" else by[self.positives]
        return alike | torch.eye(len(verbs), dtype=torch.bool, device=verbs.device)

    def _with_negatives(self, out: Mapping[str, Any], name: str) -> Tensor:
        """The rows of the samples, and behind them those of their scenes' other clips."""
        if not self.scene_negatives:
            return out[name]
        return torch.cat([out[name], out[f"{name.removesuffix('_features')}_negative"]])


def share_of(scores: Tensor, positives: Tensor) -> Tensor:
    """Minus the mean over rows of the log of the positives' share of the softmax."""
    logs = scores.log_softmax(dim=1).masked_fill(~positives, -torch.inf)
    return -logs.logsumexp(dim=1).mean()
