"""Heads that learn from pairs of a clip and a sentence: on stored frames of frozen towers, or with both towers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....core.contracts import Backbone, FitReport, PairHead, PairParts, option, require
from ....core.errors import CapabilityError, DataError
from ....core.training import LearningRates, SimilarityObjective, TrainingSource, epoch_batches, train_epochs
from ..transforms import EachFrame
from ._axes import CHANNELS, WIDE, spanned_axes, starts_from_texts
from ._clip_towers import ClipTowerAdapter
from ._frames import masked_mean, valid_first
from ._head_towers import EachFrameAlone, HeadLoss, train_towers
from ._text_head import CLIP_GRAD, ROWS_AT_ONCE, WARMUP, TextHeadAdapter
from ._text_tokens import TEXTS_AT_ONCE, SentenceReader, Sentences

OF_WIDTH = 64
"""Width of features for which the matrix that gives sentences their residuals is taken as it is."""


@PairHead.register
@dataclass(eq=False, kw_only=True)
class PairTextHead(TextHeadAdapter):
    """Base of heads that learn from pairs, too. A method says what its similarity is: vectors of clips and sentences
    (`_of_clips`, `_of_sentences`), or, where it looks at both together and is `pairwise`, `_pair_scores`.

    The loss is that of pairs of a batch (`loss`, by default CLIP's cross-entropy both ways) on this similarity. By
    default towers are frozen, and each step looks at stored frames and at one sentence of each clip. With
    `train_towers` both towers are trained with the head, end to end, at `coef_lr` times its rate, as CLIP4Clip trains
    them; clips are then augmented, and all have as many frames as the first.

    What is learned of pairs where a method is `tuned` is a matrix that gives each sentence a residual, zero at first.

    Attributes:
        changed: name -> weight of the towers; empty where they stayed as they were.
        residual: of a fit on pairs (D, D).
    """

    can: ClassVar[frozenset[str]] = TextHeadAdapter.can | {"pairs"}
    state: ClassVar[tuple[str, ...]] = (*TextHeadAdapter.state, "changed")
    later_state: ClassVar[Mapping[str, Any]] = {**TextHeadAdapter.later_state, "changed": {}}
    of_pairs: ClassVar[frozenset[str]] = frozenset(
        {"loss", "loss_options", "teacher", "train_towers", "coef_lr", "micro_batch_size", "amp"}
    )
    cost_options: ClassVar[frozenset[str]] = frozenset({"micro_batch_size"})
    tuned_state: ClassVar[tuple[str, ...]] = (*TextHeadAdapter.state, "residual", "changed")
    """The state of those that are `tuned`."""
    reads_tokens: ClassVar[bool] = False
    """Whether it looks at the single tokens of a sentence."""
    frames: int = field(init=False, default=0, repr=False)
    """Of a clip, in a training with towers."""

    loss: str | None = option(None, "pairs: a loss, or several with weights (clip=1,egonce=0.5); none: clip")
    loss_options: Mapping[str, Mapping[str, Any]] | None = option(None, "pairs: options of each loss, by its name")
    teacher: tuple[str, ...] = option(
        (), "pairs: frozen teachers, backbones, for a loss that has one; none: the towers before the training"
    )
    train_towers: bool = option(False, "pairs: also train both towers, end to end, instead of a head on stored frames")
    coef_lr: float = option(1e-3, "pairs: rate of the towers as a share of the head's, with train_towers", above=0)
    micro_batch_size: int | None = option(
        None, "pairs: clips per forward pass with train_towers; none: all; changes memory only", low=1, high=1_048_576
    )
    amp: str | None = option(
        None, "pairs: precision of the training with train_towers; none: float32", choices=("bf16", "fp16")
    )

    def __post_init__(self):
        super().__post_init__()
        self.changed = {}
        SimilarityObjective.check(self.loss, self.loss_options)
        for name in ("micro_batch_size", "amp"):
            value = getattr(self, name)
            require(self.train_towers or value is None, name, value, "it is of train_towers; omit it")

    # what a method says

    @property
    def pairwise(self) -> bool:
        """Whether it looks at a clip and a sentence together."""
        return False

    @property
    def branches(self) -> tuple[float, ...]:
        """Weights of the similarities whose sum is the head's, and of their losses."""
        return (1.0,)

    def _of_clips(self, frames: Tensor, mask: Tensor) -> list[Tensor]:
        """(B, T, D), those that are there in front -> for each branch (B, D) unit."""
        return [F.normalize(self._net(frames, mask), dim=-1)]

    def _of_sentences(self, sentences: Sentences) -> list[Tensor]:
        """For each branch (N, D) unit."""
        if self.tuned is None:
            return [sentences.whole]
        return [F.normalize(sentences.whole + self._added(sentences), dim=-1)]

    def _added(self, sentences: Sentences) -> Tensor:
        """(N, D), what is added to unit sentences; a step of Adam makes it as large whatever D is."""
        return sentences.whole @ self.residual * sqrt(OF_WIDTH / len(self.residual))

    def _pair_scores(self, frames: Tensor, mask: Tensor, sentences: Sentences) -> Tensor:
        """(B, N) similarities."""
        sides = zip(self.branches, self._of_clips(frames, mask), self._of_sentences(sentences))
        return torch.stack([weight * clips @ texts.T for weight, clips, texts in sides]).sum(dim=0)

    def _without_classes(self, backbone: Backbone) -> None:
        """What a fit on pairs keeps in the place of classes."""
        self.text, self.axes = torch.zeros(0, backbone.embed_dim, device=backbone.device), None
        self.offset, self.negative = self.text.new_zeros(0), None
        self.logit_scale = float(self.scale_of(backbone.logit_scale.detach()))
        self.residual = None if self.tuned is None else self.text.new_zeros(backbone.embed_dim, backbone.embed_dim)

    def scale_of(self, towers: Tensor) -> Tensor:
        """What its similarities are multiplied by, where that of the towers' cosines is given."""
        return towers

    def as_parameters(self) -> list[nn.Parameter]:
        """What it learns beside its network, from now on as parameters."""
        if self.tuned is None or not self.tuned.tune_text:
            return []
        self.residual = nn.Parameter(self.residual)
        return [self.residual]

    # what users call

    def check_pairs(self, source: TrainingSource, backbone: Backbone) -> None:
        super().check_pairs(source, backbone)
        self._objective(backbone, source)

    def fit_pairs(
        self,
        source: TrainingSource,
        backbone: Backbone,
        *,
        features: Callable[[Backbone], PairParts] | None = None,
        view: Callable[..., Tensor] | None = None,
        seed: int = 0,
        **how: Any,
    ) -> FitReport:
        """Learn from pairs of a clip and its sentences; `adapted` gives the result, `logits` has no classes.

        Args:
            source: the pairs to train on.
            backbone: whose frames and sentences.
            features: gives stored frames of the clips, by these towers or those of a teacher; by default they are
                encoded.
            view: (decoded, seed=int) -> pixels, with `train_towers`.
            how: further arguments of `TowerAdapter.fit_pairs`, with `train_towers`.

        Raises:
            DataError: fewer than two pairs. CapabilityError: a loss does not apply to this similarity, or needs what
            data or towers do not have; clips of one frame each, or of more frames than there are positions for.
        """
        self.check_towers(backbone)
        self.class_names_, self.multilabel_ = (), False
        self.backbone_, self.dim_, self.changed = backbone.fingerprint, backbone.embed_dim, {}
        self._made = self._reader = None
        objective = self._objective(backbone, source)
        clips = None if self.train_towers else self._parts(source, backbone, features)
        self._without_classes(backbone)
        self.axes = None if clips is None else self._axes_of_pairs(source, backbone, clips)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(backbone.embed_dim)
            notes = self._start(network, backbone)
        self._built = network.to(backbone.device).train()
        if clips is None:
            report = self._train_with_towers(objective, source, backbone, notes, view=view, seed=seed, **how)
        else:
            notes += [f"Not read while training: {name} ({reason})" for name, reason in clips.skipped]
            taught, read = self._taught(objective, source, backbone, clips, features)
            clips = replace(clips, row_of={image: row for image, row in clips.row_of.items() if image in read})
            history = self._train_on_parts(objective, source, backbone, clips, taught, seed)
            report = self._report(history, notes)
        self.fitted_ = True
        return report

    def adapted(self, backbone: Backbone) -> Backbone:
        """Of a fit on pairs what finds clips by sentences; else the backbone."""
        self.check_fitted(backbone)
        if len(self.text):
            return backbone
        if self.text.device != backbone.device:
            self.to(backbone.device)
        from ....core.backbones import HeadBackbone

        made = getattr(self, "_made", None)
        if made is None or made[0] is not backbone:
            self._made = made = backbone, HeadBackbone(self._trained_towers(backbone), self)
        return made[1]

    def _trained_towers(self, backbone: Backbone) -> Backbone:
        """The backbone itself, or a copy with the weights that the fit trained."""
        if not self.changed:
            return backbone
        from ....core.training import copy_of

        towers, method = copy_of(backbone), self._tower_method()
        method.frames, method.changed, method.gives_frames = self.frames, self.changed, True
        with torch.random.fork_rng(devices=[]):  # whatever hangs on them is replaced
            method._put(towers)
        towers.mark_learned(self.changed)
        towers.spec = backbone.spec
        return towers

    def _logits(self, batch) -> Tensor:
        if not len(self.text):
            raise CapabilityError(f"adapter '{self.name}' was fitted on pairs, which have no classes; use adapted()")
        return super()._logits(batch)

    # its similarities

    @property
    def found_dim(self) -> int:
        return self.dim_ if self.pairwise else self.dim_ * len(self.branches)

    @torch.no_grad()
    def sample_vectors(self, parts: Tensor, mask: Tensor) -> Tensor:
        if self.pairwise:
            return F.normalize(masked_mean(parts, mask), dim=-1)
        some = zip(*(each.split(ROWS_AT_ONCE) for each in self._in_front(parts, mask)))
        return torch.cat([self._side_by_side(self._of_clips(*clips)) for clips in some]).to(parts.device)

    @torch.no_grad()
    def text_vectors(self, backbone: Backbone, texts: Sequence[str]) -> Tensor:
        read = [self._read(backbone)(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
        sides = [[some.whole] if self.pairwise else self._of_sentences(some) for some in read]
        return torch.cat([side[0] if self.pairwise else self._side_by_side(side) for side in sides])

    @torch.no_grad()
    def pair_scores(self, backbone: Backbone, parts: Tensor, mask: Tensor, texts: Sequence[str]) -> Tensor:
        frames, there = self._in_front(parts, mask)
        scores = torch.empty(len(parts), len(texts))
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            sentences = self._read(backbone)(texts[start : start + TEXTS_AT_ONCE])
            for first in range(0, len(parts), ROWS_AT_ONCE):
                some = slice(first, first + ROWS_AT_ONCE)
                made = self._pair_scores(frames[some], there[some], sentences)
                scores[some, start : start + TEXTS_AT_ONCE] = made.to(scores.device)
        return scores.to(parts.device)

    def _side_by_side(self, sides: list[Tensor]) -> Tensor:
        """Vectors of all branches as one, whose products are the weighted sum of theirs."""
        return torch.cat([sqrt(weight) * side for weight, side in zip(self.branches, sides)], dim=-1)

    def _in_front(self, parts: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.check_part_count(parts.shape[1])
        return valid_first(parts.to(self.text.device), mask.to(self.text.device))

    def _read(self, backbone: Backbone) -> SentenceReader:
        """What reads sentences by this backbone, and remembers them."""
        reader = getattr(self, "_reader", None)
        if reader is None or reader.backbone is not backbone:
            self._reader = reader = SentenceReader(backbone, self.reads_tokens, keep=not self.changed)
        return reader

    # the fit

    def _objective(self, backbone: Backbone, source: TrainingSource) -> SimilarityObjective:
        how = {"who": f"adapter '{self.name}'", "pairwise": self.pairwise, "backbone": backbone, "source": source}
        return SimilarityObjective.asked(self.loss, self.loss_options, self.teacher, **how)

    def _tower_method(self) -> ClipTowerAdapter:
        """What trains the towers with the head."""
        return EachFrameAlone(warmup=WARMUP, clip_grad=CLIP_GRAD, **self._options_of_towers())

    def _options_of_towers(self) -> dict[str, Any]:
        """Those of a method that trains towers which are this head's to say."""
        own = ("epochs", "batch_size", "weight_decay", "micro_batch_size", "amp")
        return {"lr": self.lr * self.coef_lr, **{name: getattr(self, name) for name in own}}

    def _train_with_towers(
        self, objective: SimilarityObjective, source: TrainingSource, backbone: Backbone, notes: list[str], **how: Any
    ) -> FitReport:
        """Train the network and copies of both towers, in place; `how` as of `TowerAdapter.fit_pairs`."""
        towers = self._tower_method()
        towers.name, towers.gives_frames = self.name, True
        towers.teach(backbone, objective.teachers)
        report = train_towers(towers, HeadLoss(self, objective), 1 / self.coef_lr, source, backbone, **how)
        self.changed, self.frames = towers.changed, towers.frames
        self.logit_scale = float(self.scale_of(torch.tensor(towers.logit_scale)))
        done = self._report(report.history, [*notes, *report.notes])
        done.trained_parameters += report.trained_parameters
        done.chosen |= {"steps": report.chosen["steps"]}
        return done

    def _parts(
        self, source: TrainingSource, backbone: Backbone, features: Callable[[Backbone], PairParts] | None
    ) -> PairParts:
        if len(source) < 2:
            raise DataError(f"adapter '{self.name}' learns to tell pairs apart, and there is {len(source)}; give more")
        made = encoded_parts(source, backbone) if features is None else features(backbone)
        if features is not None and made.parts.shape[1] == 1:
            raise CapabilityError(
                f"adapter '{self.name}' reads the frames of a clip, and all clips have one; read more frames of each"
            )
        self.check_part_count(made.parts.shape[1])
        return made

    @torch.no_grad()
    def _axes_of_pairs(self, source: TrainingSource, backbone: Backbone, clips: PairParts) -> Tensor | None:
        """As `TextHead._spanned`, of the frames and of all sentences that the training sees, where these are fewer than
        features are wide."""
        width = clips.parts.shape[-1]
        if not self.on_axes or width <= WIDE or len(source) > width or starts_from_texts(backbone, width):
            return None
        sentences = dict.fromkeys(
            source.text("caption", row, epoch) for epoch in range(self.epochs) for row in range(len(source))
        )
        if len(sentences) > width:
            return None
        read = self._read(backbone)(list(sentences))
        texts = read.whole if read.tokens is None else torch.cat([read.whole, read.tokens[read.words]])
        multiple = getattr(self, "heads", None) or CHANNELS
        return spanned_axes(clips.parts, clips.mask, texts, multiple, whole=True)

    def _taught(
        self,
        objective: SimilarityObjective,
        source: TrainingSource,
        backbone: Backbone,
        clips: PairParts,
        features: Callable[[Backbone], PairParts] | None,
    ) -> tuple[Callable[[Sequence[int], Sequence[str]], dict[str, Tensor]], frozenset[int]]:
        """((B,) images of the source and B sentences -> what frozen teachers make of them: of a clip the mean of its
        frames; the images that all teachers could read)."""
        if not objective.teacher:
            return lambda images, texts: {}, frozenset(clips.row_of)
        teachers = objective.teachers
        of_each = [encoded_parts(source, each) if features is None else features(each) for each in teachers]
        sides = []
        for each, seen in zip(teachers or [backbone], of_each or [clips]):
            rows = F.normalize(masked_mean(seen.parts, seen.mask), dim=-1).to(backbone.device)
            sides.append((rows, seen.row_of, SentenceReader(each, tokens=False)))

        def taught(images: Sequence[int], texts: Sequence[str]) -> dict[str, Tensor]:
            clips_of = [rows[[row_of[image] for image in images]] for rows, row_of, _ in sides]
            return objective.taught(clips_of, [read(texts).whole.to(backbone.device) for _, _, read in sides])

        return taught, frozenset.intersection(*(frozenset(row_of) for _, row_of, _ in sides))

    def _train_on_parts(
        self,
        objective: SimilarityObjective,
        source: TrainingSource,
        backbone: Backbone,
        clips: PairParts,
        taught: Callable[[Sequence[int], Sequence[str]], dict[str, Tensor]],
        seed: int,
    ) -> list[dict[str, float]]:
        """Train the network in place; a row per epoch."""
        device = backbone.device
        usable = [row for row in range(len(source)) if source.image_id(row) in clips.row_of]
        if len(usable) < 2:
            raise DataError(
                f"adapter '{self.name}' learns to tell pairs apart, and {len(usable)} can be read; give more"
            )
        frames, mask = valid_first(clips.parts.to(device), clips.mask.to(device))
        place = torch.tensor([clips.row_of[source.image_id(row)] for row in usable], device=device)
        facts = {name: rows.to(device) for name, rows in objective.facts(source, usable).items()}
        batches = epoch_batches(len(usable), self.batch_size, seed, drop_last=True)
        steps, read = len(batches(0)), self._read(backbone)
        total = steps * self.epochs
        rates = LearningRates.cosine(self._rate, total, max(1, round(WARMUP * total))).by_epoch(steps)
        parameters = [*self._trained(), *objective.parameters()]
        if not parameters:
            return []
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        scales = self._scales(backbone)

        def sampled(epoch: int) -> list[tuple[Tensor, list[str]]]:
            chosen = [source.text("caption", row, epoch) for row in usable]
            read.remember(chosen)
            return [(index, [chosen[i] for i in index.tolist()]) for index in batches(epoch)]

        def loss_of(epoch: int, batch: tuple[Tensor, list[str]]) -> Tensor:
            index, texts = batch[0].to(device), read(batch[1])
            rows = place[index]
            further = {name: values[index] for name, values in facts.items()}
            images = [source.image_id(usable[i]) for i in batch[0].tolist()]
            out = {**scales, **further, **taught(images, batch[1])}
            return self.pair_loss(objective, frames[rows], mask[rows], texts, out, epoch / self.epochs)

        return [epoch.row() for epoch in train_epochs(optimizer, rates, sampled, loss_of, clip_grad=CLIP_GRAD)]

    def pair_loss(
        self,
        objective: SimilarityObjective,
        frames: Tensor,
        mask: Tensor,
        sentences: Sentences,
        out: Mapping[str, Tensor],
        progress: float = 0.0,
    ) -> Tensor:
        """The objective of a batch of pairs: of each branch, by its weight; where `pairwise`, of the similarities, each
        clip's row of which stands for the clip, and a text for its place.

        Args:
            frames: (B, T, D), those that are there in front. mask: (B, T) bool.
            sentences: B.
            out: what the losses need besides the two sides.
        """
        if self.pairwise:
            scores = self._pair_scores(frames, mask, sentences)
            sides = [(scores, torch.eye(len(scores), device=scores.device))]
        else:
            sides = list(zip(self._of_clips(frames, mask), self._of_sentences(sentences)))
        losses = [
            weight * objective.of_sides(clips, texts, out, progress)
            for weight, (clips, texts) in zip(self.branches, sides)
        ]
        return torch.stack(losses).sum()

    def _scales(self, backbone: Backbone) -> dict[str, Tensor]:
        """What the towers multiply similarities by, and add to them."""
        scale, bias = torch.tensor(float(self.logit_scale), device=backbone.device), backbone.logit_bias
        return {
            "logit_scale": scale,
            "teacher.logit_scale": backbone.logit_scale.detach(),
            **({} if bias is None else {"logit_bias": bias.detach()}),
        }


def encoded_parts(source: TrainingSource, backbone: Backbone) -> PairParts:
    """Frames of the clips of a source, each clip once, by the backbone's own preprocessing; an image is one frame."""
    transform, rows, row_of = EachFrame(backbone.preprocess(False)), [], {}
    for row in range(len(source)):
        if (image := source.image_id(row)) not in row_of:
            pixels = transform(source.image(row)).to(backbone.device)
            with torch.no_grad():
                rows.append(backbone.encode_image(pixels if pixels.ndim == 4 else pixels[None], normalize=False))
            row_of[image] = len(rows) - 1
    parts = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    counts = torch.tensor([len(each) for each in rows], device=parts.device)
    return PairParts(parts, torch.arange(parts.shape[1], device=parts.device) < counts[:, None], row_of)
