"""Teacher learning: a text tower learns, from translations alone, the features that another one gives a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..contracts.loss import RowLoss
from ..runtime.ranks import Ranks


@dataclass(eq=False, repr=False, kw_only=True)
class MClip(RowLoss):
    """Cross-lingual and Multilingual CLIP (M-CLIP; Carlsson et al., LREC 2022), which learns as in Making Monolingual
    Sentence Embeddings Multilingual using Knowledge Distillation (Reimers and Gurevych, 2020, arXiv 2004.09813).

    The text features of a translation, not normalised, are brought to those that the teacher gives the sentence, not
    normalised either: the mean of their squared differences. No image is needed, and the image tower stays as it is.
    The teacher is the image tower's own text tower where towers were joined, else `--teacher`.

    Example:
        >>> import torch, vladapt
        >>> out = {"text_embedding": torch.eye(4), "teacher.sentence": 3 * torch.eye(4)}
        >>> float(vladapt.build_loss("m-clip")(out)["loss"])
        1.0
    """

    differs: ClassVar[str] = (
        "no fixture (the code is TensorFlow's): checked against a loop written out. The teacher's features are made in "
        "each step, not once before the training"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"text_embedding", "teacher.sentence"})
    teacher: ClassVar[str | None] = "frozen"
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"image"})

    def __post_init__(self):
        super().__post_init__()
        self.need_teacher_width()

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        squares = (out["text_embedding"] - out["teacher.sentence"].detach()).square()  # (n, D)
        return {"loss": ranks.average(squares.mean())}
