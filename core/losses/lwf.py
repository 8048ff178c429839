"""Learning without Forgetting: what the towers answered before a training, they are to answer after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ..contracts.options import option
from ..contracts.outputs import Output
from ._texts import encode_without_waiting

PAIRS = frozenset({"image_features", "text_features", "logit_scale"})
TEACHER = frozenset({"teacher.image", "teacher.text", "teacher.logit_scale"})
RAW = {
    "teacher.image_embedding": Output("the teacher's image features, not normalised", kind="raw", fields=("pixels",)),
    "teacher.text_embedding": Output("the teacher's text features, not normalised", kind="raw", fields=("tokens",)),
}
EMBEDDINGS = frozenset({"image_embedding", "text_embedding"})
DISTILS = ("similarities", "embeddings")


@dataclass(eq=False, repr=False, kw_only=True)
class Lwf(Loss):
    """Learning without Forgetting (Li & Hoiem, 2016, arXiv 1606.09282), which goes beside a loss on the new pairs.

    The new samples are shown to the towers as they were before the training, and KL(theirs || the student's) of the
    softened answers is minimised. The answer of an image is its softmax over the texts of the batch, that of a text the
    softmax over images, each with its own logit scale divided by the temperature; the mean of both.

    `distils="embeddings"` is the baseline of the released code of CTP (2023, arXiv 2308.07146): the answer is a softmax
    over the dimensions of the vector before it is normalised, divided by a temperature of 0.07.

    Parts: "image", "text".

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> before = {f"teacher.{tower}": torch.eye(4) for tower in ("image", "text")}
        >>> float(vladapt.build_loss("lwf")({**out, **before, "teacher.logit_scale": torch.tensor(10.0)})["loss"])
        0.0
    """

    differs: ClassVar[str] = (
        "the answers of two towers are similarities to the other side of the batch, as those of classes are logits. "
        "The fixture is of distils=embeddings, where dimensions stand for classes; its masked words are those of ctp"
    )
    needs: ClassVar[frozenset[str]] = PAIRS | TEACHER
    outputs: ClassVar[Mapping[str, Output]] = RAW
    teacher: ClassVar[str | None] = "frozen"

    distils: str = option("similarities", "what the answers of a tower are", choices=DISTILS)
    temperature: float | None = option(
        None, "what the answers are softened by; none: 2, or 0.07 for embeddings", above=0, high=1000
    )

    def __post_init__(self):
        super().__post_init__()
        whole = self.distils == "embeddings"
        if whole:
            self.need_teacher_width()
        self.needs = EMBEDDINGS | RAW.keys() if whole else PAIRS | TEACHER
        self.softened = self.temperature if self.temperature is not None else 0.07 if whole else 2.0

    def teacher_outputs(self, batch: Mapping[str, Tensor], teacher: Backbone) -> dict[str, Tensor]:
        tokens = batch.get("teacher_tokens_0", batch["tokens"])
        return {
            "teacher.image_embedding": teacher.encode_image(batch["pixels"], normalize=False),
            "teacher.text_embedding": encode_without_waiting(teacher, tokens, normalize=False),
        }

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        answers = self._of_embeddings if self.distils == "embeddings" else self._of_similarities
        parts = {
            side: F.kl_div(now.log_softmax(1), before.detach().log_softmax(1), reduction="batchmean", log_target=True)
            for side, (now, before) in answers(out).items()
        }
        return {"loss": torch.stack([*parts.values()]).mean(), **parts}

    def _of_embeddings(self, out: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        names = {side: (f"{side}_embedding", f"teacher.{side}_embedding") for side in ("image", "text")}
        return {side: (out[now] / self.softened, out[before] / self.softened) for side, (now, before) in names.items()}

    def _of_similarities(self, out: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
        now = out["logit_scale"] / self.softened * out["image_features"] @ out["text_features"].T  # (N, N)
        before = out["teacher.logit_scale"] / self.softened * out["teacher.image"] @ out["teacher.text"].T
        return {"image": (now, before), "text": (now.T, before.T)}
