"""ViLa-MIL: prototypes of a bag meet texts about each class at two magnifications, whose beginning is learned.

Take it for slides where sentences say what a class looks like, best at two magnifications.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...core.contracts import Backbone, Batch, FeatureSet, FitReport, TextClassifier, option
from ...core.errors import CapabilityError, DataError
from ...core.prompts import PromptLearner
from ...core.training import GatedAttention
from ._bag_head import BagHead, weighted_sum

MAGNIFICATIONS = (" at high resolution", " at low resolution")
"""Of two scales, the finest first; a single one goes unnamed."""
FACTOR = 0.1
"""By which the rate falls."""


class PrototypesAndTexts(nn.Module):
    """Scales of a bag (T_s, D), with texts (C, D) about each, -> (C,) logits, the sums over scales.

    Args:
        width: D. prototypes: how many. hidden: of the attention over them.
    """

    def __init__(self, width: int, prototypes: int, hidden: int):
        super().__init__()
        self.prototypes = nn.Parameter(nn.init.trunc_normal_(torch.empty(prototypes, width), std=0.02))
        self.to_prototypes, self.to_texts = (nn.MultiheadAttention(width, 1) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.attention = GatedAttention(width, hidden)

    def forward(self, scales: Sequence[Tensor], texts: Sequence[Tensor]) -> Tensor:
        return torch.stack([self.scale_logits(bag, own) for bag, own in zip(scales, texts, strict=True)]).sum(dim=0)

    def scale_logits(self, bag: Tensor, texts: Tensor) -> Tensor:
        """(T, D) and (C, D) -> (C,)."""
        seen, _ = self.to_prototypes(self.prototypes, bag, bag, need_weights=False)
        instances = self.norm(self.prototypes + seen)  # (P, D)
        _, (pooled,) = weighted_sum(self.attention(instances), instances)
        context = torch.cat([instances, bag])
        return (texts + self.to_texts(texts, context, context, need_weights=False)[0]) @ pooled

    def weights(self, bag: Tensor) -> Tensor:
        """(1, T): how much each part has of each prototype, times how much this counts."""
        seen, shares = self.to_prototypes(self.prototypes, bag, bag)  # (P, T)
        instances = self.norm(self.prototypes + seen)
        return weighted_sum(self.attention(instances), instances)[0] @ shares


class ViLaBag(nn.Module):
    """Scales of a bag, the finest first, -> (C,) logits.

    Args:
        texts: (S, C, D), those of each scale; where a context is learned, brought up to date when a training pauses.
        context: (M, W) that is learned, or None. encode: gives the texts in a training, differentiable in the context.
    """

    def __init__(
        self,
        prototypes: int,
        hidden: int,
        texts: Tensor,
        context: nn.Parameter | None,
        encode: Callable[[], Tensor] | None,
    ):
        super().__init__()
        self.of_slide = PrototypesAndTexts(texts.shape[-1], prototypes, hidden)
        self.register_buffer("texts", texts.clone())
        self.context, self.encode = context, encode

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        if len(scales) != len(self.texts):
            raise CapabilityError(
                f"vila-mil was fitted on bags of {len(self.texts)} magnifications, these have {len(scales)}; "
                "give tiles at those of the fit"
            )
        return self.of_slide(scales, self.encode() if self.training and self.encode else self.texts)

    def train(self, mode: bool = True) -> ViLaBag:
        if not mode and self.encode is not None:
            with torch.no_grad():
                self.texts.copy_(self.encode())
        return super().train(mode)


@dataclass(eq=False, kw_only=True)
class VilaMil(BagHead):
    """ViLa-MIL: Dual-scale Vision-Language Multiple Instance Learning for Whole Slide Image Classification (Shi et al.,
    2024, CVPR, arXiv 2502.08391).

    Of each scale X (T, D), with learned prototypes P and texts t_c about the classes at that magnification:

        H = LN(P + MHA1(P, X, X)),  f = sum_p a_p H_p by a gated attention,  t'_c = t_c + MHA2(t_c, [H; X], [H; X])

    and the logits are the sums over scales of f . t'_c, without a scale or a norm. What is learned is shared by both
    scales. A text is 16 context vectors, learned through the frozen text tower, and "A WSI of CLASS at low resolution
    with visually descriptive characteristics of LIST." (high, for the finer scale). Cross-entropy, Adam, one bag a
    step, a tenth of the rate after each `plateau` epochs that did not lower the loss on val, at most 200 epochs, ended
    after epoch 80 where 20 epochs did not.

    Bags of one scale have one term, and texts that name no resolution. Where there are class vectors and no text tower
    that takes a context (features of a file), the vectors are the texts of each scale, and no context is learned.

    Resources:
        descriptions: C tuples of what LIST says: that of the lower and that of the higher resolution, or one for both;
            of one scale, all are one list. Without them texts end with the resolution.

    Raises:
        ConfigError: an option out of range, a text too long for the tower beside its context.
        DataError: more or fewer descriptions of a class than there are scales.
        CapabilityError: samples without parts, of more than two scales, or with several labels; no texts.

    Example:
        >>> adapter = build_adapter("vila-mil", epochs=2)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    text_free: ClassVar[bool] = False
    optional: ClassVar[frozenset[str]] = frozenset({"text_encoder", "descriptions"})
    differs: ClassVar[str] = (
        "the context stands before the sentence, where the released code writes it over the first 16 tokens; the rate "
        "falls on a plateau, where the released code makes a scheduler and never steps it (`plateau=none`); the "
        "loss on val says which epoch is kept and when the training ends, where the released code counts errors"
    )

    min_epochs: int = option(80, "the training does not end before this epoch", low=0, high=100_000)
    plateau: int | None = option(
        10, "epochs without a lower loss on val after which the rate is a tenth; none: never", low=1, high=100_000
    )
    n_ctx: int = option(16, "context vectors learned before each text; 0: texts stay as they are", low=0, high=1024)
    prototypes: int = option(16, "prototypes that are learned", low=1, high=65_536)
    hidden: int = option(192, "width of the attention over prototypes", low=1, high=65_536)

    _start: tuple[Tensor, nn.Parameter | None, Callable[[], Tensor] | None] | None = field(
        init=False, default=None, repr=False
    )

    @property
    def _first_stop(self) -> int:
        return self.min_epochs

    @property
    def magnifications(self) -> int:
        return len(self.network["texts"])

    def _network(self, width: int, classes: int) -> nn.Module:
        context = self.network.get("context")
        start = (self.network.get("texts"), None if context is None else nn.Parameter(context.clone()), None)
        return ViLaBag(self.prototypes, self.hidden, *(self._start or start))

    def _bags(self, samples: FeatureSet | Batch) -> Sequence[tuple[Tensor, ...]]:
        return samples.bags.by_scale()

    def _scheduler(self, optimizer: torch.optim.Optimizer):
        if self.plateau is None:
            return None
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=FACTOR, patience=self.plateau)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        device = support.features.device
        support, classifier = (each if backbone is None else each.to(backbone.device) for each in (support, classifier))
        val = val if val is None or backbone is None else val.to(backbone.device)
        described = resources.get("descriptions")
        sentences = class_sentences(self.class_names_, support.bags.scales, described)
        how = {"val": val, "unlabeled": unlabeled, "backbone": backbone, "resources": resources, "seed": seed}
        self._start, note = self._texts(classifier, backbone, sentences, described, seed)
        try:
            report = super()._fit(support, classifier, **how)
        finally:
            self._start = None
        self.to(device)
        report.notes.append(note)
        return report

    def _texts(
        self,
        classifier: TextClassifier,
        backbone: Backbone | None,
        sentences: list[list[str]],
        described: Sequence[Sequence[str]] | None,
        seed: int,
    ) -> tuple[tuple[Tensor, nn.Parameter | None, Callable[[], Tensor] | None], str]:
        """Texts (S, C, D), the context that is learned and what encodes it, if any; and a note on them."""
        scales = len(sentences)
        flat = [each for of_scale in sentences for each in of_scale]
        shape = (scales, len(classifier), classifier.weights.shape[1])
        backbone = (
            backbone if backbone is not None and backbone.context_length else None
        )  # stored features read no text
        if backbone is not None and self.n_ctx and "prompt" in backbone.capabilities:
            learner = PromptLearner(backbone, flat, n_ctx=self.n_ctx, seed=seed)

            def encode() -> Tensor:
                return learner.encode(normalize=False).float().view(shape)

            with torch.no_grad():
                return (encode(), learner.ctx, encode), f"texts such as '{flat[0]}', after a learned context"
        if backbone is not None:
            with torch.no_grad():
                made = backbone.encode_text([f"{each}." for each in flat], normalize=False).float()
            return (made.view(shape), None, None), f"texts such as '{flat[0]}', no context is learned"
        if not classifier.has_texts:
            raise CapabilityError("vila-mil compares slides with texts about the classes, and there are none")
        if described is not None:
            raise CapabilityError(
                "vila-mil: descriptions need a text tower to read them; give --backbone, or omit them"
            )
        vectors = classifier.weights if classifier.unnormalized is None else classifier.unnormalized
        return (vectors.expand(shape), None, None), "no text tower: class vectors stay as stored, no context is learned"

    def bag_logits(self, bag: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Of the parts (T, D) of one magnification, or a tuple of those of each."""
        return super().bag_logits(bag if isinstance(bag, tuple) else (bag,))

    @torch.no_grad()
    def attention(self, bag: Tensor) -> Tensor:
        """Of the parts of one scale."""
        self.check_fitted()
        return self._net.of_slide.weights(bag)


def class_sentences(
    class_names: Sequence[str], scales: int, described: Sequence[Sequence[str]] | None
) -> list[list[str]]:
    """The sentence about each class at each scale, the finest first, without a full stop.

    Args:
        described: of each class what one sees at the lower and at the higher resolution, or at both.

    Raises:
        DataError: more or fewer descriptions of a class than there are scales, or none.
        CapabilityError: more than two scales.
    """
    if scales > len(MAGNIFICATIONS):
        raise CapabilityError(f"vila-mil has texts for one or two magnifications, and these bags have {scales}")
    seen = (
        [("",) * scales] * len(class_names)
        if described is None
        else [_by_scale(name, own, scales) for name, own in zip(class_names, described, strict=True)]
    )
    magnifications = MAGNIFICATIONS if scales > 1 else ("",)
    return [
        [f"A WSI of {name}{magnification}{own[scale]}" for name, own in zip(class_names, seen)]
        for scale, magnification in enumerate(magnifications)
    ]


def _by_scale(name: str, described: Sequence[str], scales: int) -> tuple[str, ...]:
    """What is to be seen of a class at each scale, the finest first, as the end of a sentence."""
    lists = [each.strip().rstrip(".") for each in described]
    if scales == 1 and lists:
        lists = [", ".join(lists)]
    if len(lists) not in (1, scales):
        raise DataError(
            f"descriptions: class '{name}' has {len(lists)} for {scales} magnifications; give that at low, then that "
            "at high resolution, or one for both"
        )
    ends = [f" with visually descriptive characteristics of {each}" for each in reversed(lists)]
    return tuple(ends * (scales // len(ends)))
