"""Mug: the tokens of a text and the frames of a clip weight each other.

Take it to find clips by sentences on stored features, beside `clip4clip`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, TextClassifier, has, option, require
from ....core.registry import build_adapter
from ._clip_towers import ClipTowerAdapter
from ._matching import matching_loss
from ._pairs import PairTextHead
from ._text_head import ROWS_AT_ONCE, TextHeadStep, TunedText
from ._text_tokens import Sentences, class_texts, token_features

ENTRIES = 1 << 24
"""Cosines of tokens with frames that are held at once, where no gradient is wanted."""


class Guidance(nn.Module):
    """Scores of texts and clips from the cosines of their tokens and frames.

    Args:
        mode: "simple" and "full" weight by softmaxes of the cosines; "frame_text" weights frames by the text's last
            token; "wti" takes the best match of each token and frame, weighted by learned layers.
        width: D.
        tau: what cosines are multiplied by in the softmaxes.
        released_padding: let padding into the last softmax of "full", and as a match of 0 into "wti", as the released
            code does.
    """

    def __init__(self, mode: str, width: int, tau: float, released_padding: bool = False):
        super().__init__()
        self.mode, self.tau, self.released_padding = mode, tau, released_padding
        if mode == "wti":
            self.text_weight_fc, self.video_weight_fc = nn.Linear(width, 1), nn.Linear(width, 1)

    def forward(self, tokens: Tensor, words: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Tokens (A, L, D) with words (A, L) bool, frames (B, T, D) with mask (B, T) -> (A, B)."""
        unit_tokens, unit_frames = F.normalize(tokens, dim=-1), F.normalize(frames, dim=-1)
        cosines = torch.einsum("atd,bvd->abtv", unit_tokens, unit_frames)
        there = words[:, None, :, None] & mask[None, :, None, :]  # (A, B, L, T)
        if self.mode == "simple":
            return self._simple(cosines, words, mask)
        if self.mode == "full":
            return self._full(cosines, unit_tokens, words, unit_frames, mask)
        if self.mode == "frame_text":
            last = (words * torch.arange(1, words.shape[1] + 1, device=words.device)).argmax(dim=1)  # (A,)
            of_text = cosines[torch.arange(len(last), device=last.device), :, last]  # (A, B, T)
            return self._weighted(of_text, of_text, mask[None], 2)
        best = cosines.masked_fill(~there, 0.0 if self.released_padding else -torch.inf)
        of_tokens = best.amax(dim=3).masked_fill(~words[:, None], 0)  # (A, B, L)
        of_frames = best.amax(dim=2).masked_fill(~mask[None], 0)  # (A, B, T)
        by_text = self.text_weight_fc(tokens)[..., 0].masked_fill(~words, -torch.inf).softmax(dim=1)
        by_video = self.video_weight_fc(frames)[..., 0].masked_fill(~mask, -torch.inf).softmax(dim=1)
        return (torch.einsum("abt,at->ab", of_tokens, by_text) + torch.einsum("abv,bv->ab", of_frames, by_video)) / 2

    def _simple(self, cosines: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        of_tokens = self._weighted(cosines, cosines, mask[None, :, None], 3)  # (A, B, L)
        of_frames = self._weighted(cosines, cosines, words[:, None, :, None], 2)  # (A, B, T)
        by_text = self._weighted(of_tokens, of_tokens, words[:, None], 2)
        return (by_text + self._weighted(of_frames, of_frames, mask[None], 2)) / 2

    def _full(self, cosines: Tensor, tokens: Tensor, words: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        tokens_there = words[:, None]  # (A, 1, L)
        scores = cosines.masked_fill(~tokens_there[..., None], 0) if self.released_padding else cosines
        over_frames = self._softmax(scores, mask[None, :, None], 3)
        over_tokens = self._softmax(cosines, tokens_there[..., None], 2)
        of_tokens = (over_frames * cosines).sum(dim=3)  # of a token with its frames' weighted sum
        of_frames = (over_tokens * cosines).sum(dim=2)
        tokens_there = tokens_there.new_ones(()) if self.released_padding else tokens_there
        text = torch.einsum("abt,atd->abd", self._softmax(of_tokens, tokens_there, 2), tokens)
        video = torch.einsum("abv,bvd->abd", self._softmax(of_frames, mask[None], 2), frames)
        return (text * video).sum(dim=-1)

    def _weighted(self, values: Tensor, scores: Tensor, there: Tensor, dim: int) -> Tensor:
        return (values * self._softmax(scores, there, dim)).sum(dim=dim)

    def _softmax(self, scores: Tensor, there: Tensor, dim: int) -> Tensor:
        return (self.tau * scores).masked_fill(~there, -torch.inf).softmax(dim=dim)


@dataclass(eq=False, kw_only=True)
class Mug(PairTextHead):
    """The mutual-guided alignment of Mug-STAN: Adapting Image-Language Pretrained Models for General Video
    Understanding (Liu et al., 2023, arXiv 2311.15075), on stored frame features, with the features of the tokens of a
    class's first text.

    Token t and frame v have the cosine S_tv. `simple` (released default): a token's score is its frames' mean weighted
    by softmax_v(100 S), a frame's that of its tokens, and the text's and the clip's are means of these weighted in the
    same way; the similarity is their mean. `full`: the weights pool token and frame features, whose product is the
    similarity. `frame_text` looks at the text's last token alone. `wti` is the weighted token-wise interaction of DRL
    (Wang et al., 2022, arXiv 2203.07111), whose two weighting layers are trained. The others have no parameters: of the
    shots a residual of each class is learned that is added to its unit tokens (`tune_text`; ours), of pairs a matrix
    that gives each sentence one. The loss is the sum of the cross-entropies both ways. The order of frames changes
    nothing.

    With `train_towers` and `towers="stan"` pairs train all of Mug-STAN: the frames are those of STAN's branch, which
    sees them together and in order, and whose weights learn at ten times the rate of the towers. `lr` and `coef_lr`
    give that rate as for other heads, and `tower_options` what else is STAN's (`depth`, `clip_grad`, ...).

    Raises:
        ConfigError: an option out of range.
        CapabilityError: several labels per clip, samples without parts, or a text tower whose blocks cannot be run.

    Example:
        >>> adapter = build_adapter("mug", epochs=5)
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "masks mark padding, of frames too, where the released code takes a cosine of 0 for padding and lets padding "
        "into `full` and `wti`; the token that starts a text is left out; a residual of each class is learned from the "
        "shots, of pairs a matrix that gives each sentence one"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"parts", "text_encoder"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"prompt", "text_blocks"})
    multilabel: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (*PairTextHead.tuned_state, "tokens", "words", "frames")
    later_state: ClassVar[Mapping[str, Any]] = {**PairTextHead.later_state, "frames": 0}
    of_pairs: ClassVar[frozenset[str]] = PairTextHead.of_pairs | {"towers", "tower_options"}

    tuned = has(TunedText)
    weight_decay: float = 0.01
    mode: str = option(
        "simple", "how tokens and frames guide each other", choices=("simple", "full", "frame_text", "wti")
    )
    tau: float = option(100.0, "what cosines are multiplied by in the softmaxes", above=0)
    towers: str | None = option(
        None,
        "pairs: with train_towers, whose image tower gives the frames; none: each by itself",
        choices=("stan",),
    )
    tower_options: Mapping[str, Any] | None = option(None, "pairs: options of that method, by name, as depth")

    def __post_init__(self):
        super().__post_init__()
        require(self.train_towers or self.towers is None, "towers", self.towers, "it is of train_towers; omit it")
        require(self.towers or not self.tower_options, "tower_options", self.tower_options, "it is of towers; omit it")
        for name in self.tower_options or {}:
            require(name not in {*self.options}, "tower_options", name, f"give {name} as an option of {self.name}")
        self._tower_method()  # an option that it does not have is refused here

    def check_towers(self, backbone: Backbone) -> None:
        super().check_towers(backbone)
        if self.towers is not None:
            self._tower_method().check_towers(backbone)

    @property
    def part_positions(self) -> int | None:  # type: ignore[override]  # by an option
        return None if self.towers is None else self._tower_method().part_positions

    def _tower_method(self) -> ClipTowerAdapter:
        if self.towers is None:
            return super()._tower_method()
        return build_adapter(self.towers, **self._options_of_towers(), **(self.tower_options or {}))

    def _network(self, width: int) -> nn.Module:
        return Guidance(self.mode, width, self.tau)

    def _prepare(self, network: nn.Module, backbone, classifier: TextClassifier, resources) -> list[str]:
        self._read_texts(backbone, classifier)
        return []

    def _read_texts(self, backbone, classifier: TextClassifier) -> None:
        tokens, words = token_features(backbone, class_texts(classifier, self.class_names_))
        self.tokens, self.words = tokens.to(self.text.device), words.to(self.text.device)

    def _scores(self, frames: Tensor, mask: Tensor) -> Tensor:
        return self.logit_scale * self._guided(frames, mask, self.tokens, self.words, self.residual) + self.offset

    def _guided(self, frames: Tensor, mask: Tensor, tokens: Tensor, words: Tensor, added: Tensor) -> Tensor:
        """(B, N) similarities of clips and texts, whose unit tokens (N, L, D) have something added (N, D)."""
        tokens = tokens + tokens.norm(dim=-1, keepdim=True) * added[:, None]
        at_once = len(tokens)
        if not torch.is_grad_enabled():
            at_once = max(1, ENTRIES // (ROWS_AT_ONCE * frames.shape[1] * tokens.shape[1]))
        pairs = zip(tokens.split(at_once), words.split(at_once))
        return torch.cat([self._net(*some, frames, mask) for some in pairs]).T

    def _step_loss(self, step: TextHeadStep) -> Tensor:
        return 2 * matching_loss(self._scores(step.frames, step.mask), step.labels, step.priors)

    def _rename(self, backbone, classifier: TextClassifier) -> None:
        super()._rename(backbone, classifier)
        self._read_texts(backbone, classifier)

    # of pairs

    @property
    def pairwise(self) -> bool:
        return True

    @property
    def branches(self) -> tuple[float, ...]:
        """The published loss is the sum of both directions, of which others take the mean."""
        return (2.0,)

    def _without_classes(self, backbone) -> None:
        super()._without_classes(backbone)
        self.tokens, self.words = self.text[:, None], self.text.new_zeros(0, 1, dtype=torch.bool)

    def _pair_scores(self, frames: Tensor, mask: Tensor, sentences: Sentences) -> Tensor:
        return self._guided(frames, mask, sentences.tokens, sentences.words, self._added(sentences))
