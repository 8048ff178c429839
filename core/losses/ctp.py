"""CTP: momentum contrast with a compatible teacher, and the topology of the towers before the training preserved."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.loss import Loss
from ..contracts.options import option
from ..contracts.outputs import Output
from ._hidden_words import HiddenWords
from ._info_nce import info_nce
from ._texts import encode_without_waiting
from .momentum_queue import FeatureQueue

PAIRS = frozenset({"image_features", "text_features"})
KEYS = frozenset({"teacher.image", "teacher.text"})
WORDS = frozenset({"masked_tokens", "masked_labels", "image_hidden"})
SOFT_WORDS = frozenset({"teacher.masked_tokens", "teacher.image_hidden"})
REFERENCE = {
    "reference.image": Output("image features of the towers before the training", fields=("pixels",)),
    "reference.text": Output("text features of the towers before the training", fields=("tokens",)),
}
NEEDS = {
    "contrastive": PAIRS,
    "momentum_contrast": PAIRS | KEYS,
    "cross": PAIRS | REFERENCE.keys(),
    "same": PAIRS | REFERENCE.keys(),
    "words": WORDS,
    "soft_words": WORDS | SOFT_WORDS,
}
TOPOLOGY = ("cross", "same")
OWN_ENTRY = -1000.0
"""What takes the place of a row's similarity to itself, before the temperature, as released."""


@dataclass(eq=False, repr=False, kw_only=True)
class Ctp(Loss):
    """CTP: Towards Vision-Language Continual Pretraining via Compatible Momentum Contrast and Topology Preservation
    (Zhu et al., 2023, arXiv 2308.07146).

    With tau = 0.07, unit features v and t of the batch, those of the momentum teacher and those of the reference (the
    towers as they were before this training):

    contrastive: InfoNCE within the batch. momentum_contrast: each image picks the teacher's text of its own pair among
    those of the batch and a queue of earlier ones, and each text the teacher's image likewise.

    cross: KL(softmax of the reference's similarities || softmax of the student's), rows of images over texts and of
    texts over images, mean of both. same: likewise of images over images and of texts over texts, a row's similarity to
    itself left out.

    words: hidden words of the caption are named, with the image's feature added. soft_words: cross-entropy to what the
    teacher names.

    The teacher is compatible: m = 0.9 m + 0.05 student + 0.05 reference in each step. `first` is the loss of the first
    of several sets, when there is nothing to preserve: no topology, and a plain teacher of momentum 0.995.

    A term of weight 0 is left out, with all that only it needs. The topology is of the global batch.

    Raises:
        ConfigError: all weights are 0.
        CapabilityError: dims lacks embed_dim, text_width, image_width or vocab_size where they are needed.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4)}
        >>> out |= {f"{side}.{tower}": torch.eye(4) for side in ("teacher", "reference") for tower in ("image", "text")}
        >>> sorted(vladapt.build_loss("ctp", {"embed_dim": 4}, words=0, soft_words=0)(out))
        ['contrastive', 'cross', 'loss', 'momentum_contrast', 'same']
    """

    differs: ClassVar[str] = (
        "the published towers have an encoder in which words look at image patches; here the image's feature before "
        "the projection is added to each word through a linear layer, and the teacher sees the student's embedding of "
        "hidden words. Heads and queues start anew with each set. The teacher moves after a step, the released one "
        "before the next, which is the same"
    )
    needs: ClassVar[frozenset[str]] = frozenset().union(*NEEDS.values())
    outputs: ClassVar[Mapping[str, Output]] = REFERENCE
    teacher: ClassVar[str | None] = "ema"

    first: bool = option(False, "the first of several sets: there is nothing to preserve yet")
    contrastive: float = option(1.0, "weight of InfoNCE in the batch, 0 for none", low=0, high=10_000)
    momentum_contrast: float = option(1.0, "weight of the contrast to the teacher's keys", low=0, high=10_000)
    cross: float = option(1.0, "weight of the topology between images and texts, 0 for none", low=0, high=10_000)
    same: float = option(1.0, "weight of the topology within images and texts, 0 for none", low=0, high=10_000)
    words: float = option(1.0, "weight of the masked words, 0 for none", low=0, high=10_000)
    soft_words: float = option(1.0, "weight of the teacher's masked words, 0 for none", low=0, high=10_000)
    temperature: float = option(0.07, "temperature of all similarities", above=0, high=100)
    queue_size: int = option(1024, "keys that each of the two queues holds", low=1, high=1_000_000)
    momentum: float | None = option(
        None, "momentum of the teacher; none: 0.9, or 0.995 for the first set", low=0, high=1
    )
    compatible: float = option(
        0.5, "share of the towers before the training in what the teacher takes up; 0: a plain teacher", low=0, high=1
    )

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of([term for term in NEEDS if not (self.first and term in TOPOLOGY)])
        self.needs = frozenset().union(*(NEEDS[term] for term in self.weights))
        self.outputs = REFERENCE if self.needs & REFERENCE.keys() else {}
        self.teacher = "ema" if self.needs & (KEYS | SOFT_WORDS) else None
        self.keeps = self.momentum if self.momentum is not None else 0.995 if self.first else 0.9
        self._reference: list[Backbone] = []  # in a list: no submodule, to be neither trained nor checkpointed
        self._seen: tuple[Tensor, Tensor] | None = None
        if self.momentum_contrast:
            width = self.dim("embed_dim", "its queues")
            self.images, self.texts = FeatureQueue(self.queue_size, width), FeatureQueue(self.queue_size, width)
        if self.words or self.soft_words:
            widths = (self.dim(name, "its words") for name in ("image_width", "text_width", "vocab_size"))
            self.head = _FusedWords(*widths)
        if self.soft_words:
            self.teacher_head = deepcopy(self.head).requires_grad_(False)
            self.reference_head = deepcopy(self.head).requires_grad_(False)

    def prepare(self, backbone: Backbone) -> None:
        """Keeps a frozen copy of the towers as they are: what is to be preserved."""
        if self._anchors or self.outputs:
            reference = deepcopy(backbone)
            reference.model.requires_grad_(False).eval()
            self._reference = [reference]

    @property
    def _anchors(self) -> bool:
        return self.teacher == "ema" and not self.first and self.compatible > 0

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        (reference,) = self._reference
        with torch.no_grad():
            images = reference.encode_image(batch["pixels"])
            texts = encode_without_waiting(reference, batch["tokens"])
        return {"reference.image": images, "reference.text": texts}

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        terms = {
            "contrastive": lambda: info_nce(out["image_features"], out["text_features"], 1 / self.temperature),
            "momentum_contrast": lambda: self._momentum_contrast(out),
            "cross": lambda: self._topology(out, ("image", "text"), ("text", "image")),
            "same": lambda: self._topology(out, ("image", "image"), ("text", "text")),
        }
        parts = {name: terms[name]() for name in self.weights if name in terms} | self._words(out)
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _momentum_contrast(self, out: Mapping[str, Any]) -> Tensor:
        images, texts = out["teacher.image"].detach(), out["teacher.text"].detach()
        self._seen = images, texts
        to_text = self._among(out["image_features"], texts, self.texts)
        return (to_text + self._among(out["text_features"], images, self.images)) / 2

    def _among(self, queries: Tensor, keys: Tensor, queue: FeatureQueue) -> Tensor:
        """Mean cross-entropy of each query's own key among those of the batch and the queue."""
        earlier = queue.rows.to(queries, copy=True)  # the backward pass's own, should the queue move before that
        logits = queries @ torch.cat([keys, earlier]).T / self.temperature  # (N, N + K)
        return F.cross_entropy(logits, torch.arange(len(queries), device=queries.device))

    def _topology(self, out: Mapping[str, Any], *sides: tuple[str, str]) -> Tensor:
        terms = []
        for rows, columns in sides:
            own = self._scores(out[f"{rows}_features"], out[f"{columns}_features"], rows == columns)
            earlier = self._scores(out[f"reference.{rows}"], out[f"reference.{columns}"], rows == columns).detach()
            terms.append(F.kl_div(own.log_softmax(1), earlier.log_softmax(1), reduction="batchmean", log_target=True))
        return sum(terms) / len(terms)

    def _scores(self, rows: Tensor, columns: Tensor, same: bool) -> Tensor:
        products = rows @ columns.T  # (N, N)
        if same:
            own = torch.eye(len(products), dtype=torch.bool, device=products.device)
            products = products.masked_fill(own, OWN_ENTRY)
        return products / self.temperature

    def _words(self, out: Mapping[str, Any]) -> dict[str, Tensor]:
        if not (self.words or self.soft_words):
            return {}
        hidden = HiddenWords(out["masked_labels"])
        scores = self.head(hidden, out["masked_tokens"], out["image_hidden"])  # (K, vocabulary)
        parts = {}
        if self.words:
            parts["words"] = hidden.error(scores) / hidden.count.clamp(min=1)
        if self.soft_words:
            with torch.no_grad():
                named = self.teacher_head(hidden, out["teacher.masked_tokens"], out["teacher.image_hidden"]).softmax(1)
            errors = -(named * scores.log_softmax(1)).sum(dim=1)
            asked = torch.arange(len(errors), device=errors.device) < hidden.count
            parts["soft_words"] = torch.where(asked, errors, 0.0).sum() / hidden.count.clamp(min=1)
        return parts

    def teacher_momentum(self, progress: float) -> float:
        """Share of itself that the teacher keeps of what it is and of the reference in it."""
        return 1 - (1 - self.keeps) * (1 - self._compatible)

    def teacher_anchor(self, progress: float) -> tuple[nn.Module, float] | None:
        """The towers before the training, and the share of itself that the teacher keeps beside them."""
        if not self._anchors:
            return None
        return self._reference[0].model, self._beside_reference

    @property
    def _compatible(self) -> float:
        return self.compatible if self._anchors else 0.0

    @property
    def _beside_reference(self) -> float:
        kept = self.teacher_momentum(0.0)
        return self.keeps / kept if kept else 1.0

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Puts the keys of the step in place of the oldest, and moves the teacher's head as its towers move."""
        if self._seen is not None:
            self.images.push(self._seen[0])
            self.texts.push(self._seen[1])
            self._seen = None
        if self.soft_words:
            heads = (self.teacher_head, self.head, self.reference_head)
            for average, trained, earlier in zip(*(head.parameters() for head in heads)):
                average.lerp_(earlier, 1 - self._beside_reference)
                average.lerp_(trained, 1 - self.teacher_momentum(0.0))


class _FusedWords(nn.Module):
    """Scores of all words at the hidden places, of the text's tokens and the image's feature.

    Args:
        image_width, text_width, vocab_size: of what goes in, and of the scores.
    """

    def __init__(self, image_width: int, text_width: int, vocab_size: int):
        super().__init__()
        self.image = nn.Linear(image_width, text_width, bias=False)
        self.words = nn.Linear(text_width, vocab_size)

    def forward(self, hidden: HiddenWords, tokens: Tensor, image: Tensor) -> Tensor:
        """Tokens (B, L, T) and images (B, W) -> (K, vocabulary)."""
        return self.words(hidden.among(tokens + self.image(image)[:, None]))
