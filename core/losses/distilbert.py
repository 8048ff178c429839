"""DistilBERT's triple loss, for text towers: the teacher's words, the hidden words, the last hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.loss import RowLoss
from ..contracts.options import option
from ..contracts.outputs import MASKED_SHARE, Output
from ..errors import CapabilityError
from ..runtime.ranks import Ranks
from ._draws import Draws

FIELDS = ("tokens", "draws")
HIDDEN, REPLACED = 0.8, 0.1
"""Of the words that are asked for: the shares that are hidden, and that are another word; the rest stays."""
IGNORED = -100
WORDS = frozenset({"word_logits", "word_labels"})
STATES = frozenset({"word_states", "teacher.word_states"})


@dataclass(eq=False, repr=False, kw_only=True)
class DistilBert(RowLoss):
    """DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter (2019, arXiv 1910.01108).

    Captions in which 15 % of the words are asked for (80 % of these hidden, 10 % another word) go through both text
    towers. With T the temperature, student and teacher scoring all words of the vocabulary at each token,

        ce   KL(softmax(teacher / T) || softmax(student / T)) T^2, mean over the tokens of the captions
        mlm  cross-entropy of the words that were asked for
        mse  squared distance of the scores, summed over the vocabulary, mean over the tokens
        cos  1 - cosine of the last hidden states, mean over the tokens

    are summed by weight. As published: 5, 2, 0, 1, and T 2. With `restrict` ce and mse are of the words that are asked
    for alone. A term of weight 0 is left out.

    A published student has every second layer of its teacher: `--set inherit=yes`.

    Raises:
        ConfigError: all weights are 0.
        CapabilityError: a tower has no token for a hidden word, the towers have different words, or hidden states of
            different widths where these are compared.

    Example:
        >>> import torch, vladapt
        >>> scores, states, there = torch.zeros(1, 3, 5), torch.ones(1, 3, 4), torch.ones(1, 3, dtype=torch.bool)
        >>> out = {"word_logits": scores, "teacher.word_logits": scores, "word_states": states, "text_mask": there}
        >>> out |= {"teacher.word_states": states, "word_labels": torch.tensor([[-100, 2, -100]])}
        >>> {name: round(part.item(), 4) for name, part in vladapt.build_loss("distilbert")(out).items()}
        {'loss': 3.2189, 'ce': 0.0, 'mlm': 1.6094, 'cos': 0.0}
    """

    differs: ClassVar[str] = (
        "the values do not differ. Words are asked for alike, not by frequency ** -0.7; a text tower has no head that "
        "scores words, so its last hidden states are compared with its word embeddings, as BERT's tied head does"
    )
    experimental: ClassVar[str] = "what scores the words: the towers' word embeddings, without a head of their own"
    outputs: ClassVar[Mapping[str, Output]] = {
        "word_logits": Output(
            "the student's scores of all words, at each token", ("B", "L", "X"), "raw", fields=FIELDS
        ),
        "word_states": Output("the student's last hidden states", ("B", "L", "T"), "raw", fields=FIELDS),
        "word_labels": Output("the words that are asked for", ("B", "L"), "token", fields=FIELDS),
        "teacher.word_logits": Output("the teacher's scores of all words", ("B", "L", "X"), "raw", fields=FIELDS),
        "teacher.word_states": Output("the teacher's last hidden states", ("B", "L", "T"), "raw", fields=FIELDS),
    }
    needs: ClassVar[frozenset[str]] = WORDS | STATES | {"teacher.word_logits", "text_mask"}
    teacher: ClassVar[str | None] = "frozen"

    ce: float = option(5.0, "weight of the teacher's words, 0 for none", low=0, high=10_000)
    mlm: float = option(2.0, "weight of the words that are asked for, 0 for none", low=0, high=10_000)
    mse: float = option(0.0, "weight of the squared distance of the scores, 0 for none", low=0, high=10_000)
    cos: float = option(1.0, "weight of the cosine of hidden states, 0 for none", low=0, high=10_000)
    temperature: float = option(2.0, "temperature of the teacher's words", above=0, high=1000)
    restrict: bool = option(False, "compare with the teacher's words only where words are asked for")
    share: float = option(MASKED_SHARE, "share of the words that are asked for", above=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        self.weights = self.weights_of(("ce", "mlm", "mse", "cos"))
        self.needs = frozenset({"text_mask"})
        if self.ce or self.mse:
            self.needs |= WORDS | {"teacher.word_logits"}
        if self.mlm:
            self.needs |= WORDS
        if self.cos:
            self.needs |= STATES
        if not self.needs & {"teacher.word_logits", "teacher.word_states"}:
            self.teacher = None

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        terms = {"ce": self._ce, "mlm": self._mlm, "mse": self._mse, "cos": self._cos}
        parts = {name: terms[name](out, ranks) for name in self.weights}
        return {"loss": sum(self.weights[name] * part for name, part in parts.items()), **parts}

    def _ce(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        student, teacher = self._scores(out)  # (n, L, V)
        logs, targets = ((each / self.temperature).log_softmax(dim=-1) for each in (student, teacher))
        divergence = (targets.exp() * (targets - logs)).sum(dim=-1)  # (n, L)
        return self.temperature**2 * _mean(divergence, self._compared(out), ranks)

    def _mlm(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        labels = out["word_labels"]
        missed = F.cross_entropy(out["word_logits"].mT, labels, ignore_index=IGNORED, reduction="none")  # (n, L)
        return _mean(missed, labels != IGNORED, ranks)

    def _mse(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        student, teacher = self._scores(out)
        return _mean((student - teacher).square().sum(dim=-1), self._compared(out), ranks)

    def _cos(self, out: Mapping[str, Any], ranks: Ranks) -> Tensor:
        student, teacher = out["word_states"], out["teacher.word_states"].detach()
        if student.shape != teacher.shape:
            raise CapabilityError(
                f"{self.title} compares hidden states of width {student.shape[-1]} with a teacher's of "
                f"{teacher.shape[-1]}; give a teacher as wide, or "
                "--set loss.distilbert.cos=0"
            )
        return _mean(1 - F.cosine_similarity(student, teacher, dim=-1), out["text_mask"], ranks)

    def _scores(self, out: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        student, teacher = out["word_logits"], out["teacher.word_logits"].detach()
        if student.shape != teacher.shape:
            raise CapabilityError(
                f"{self.title} compares {student.shape[-1]} words with a teacher's {teacher.shape[-1]}; give a teacher "
                "that reads the same words"
            )
        return student, teacher

    def _compared(self, out: Mapping[str, Any]) -> Tensor:
        """(n, L) bool: tokens whose scores are compared."""
        return out["word_labels"] >= 0 if self.restrict else out["text_mask"]

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        shown, labels = self._with_hidden_words(batch, backbone)
        states = backbone.text_tokens(shown)
        made = {"word_labels": labels, "word_states": states}
        return made | ({"word_logits": _words(states, backbone)} if "word_logits" in self.needs else {})

    def teacher_outputs(self, batch: Mapping[str, Tensor], teacher: Backbone) -> dict[str, Tensor]:
        shown, _ = self._with_hidden_words(batch, teacher)
        states = teacher.text_tokens(shown)
        made = {"teacher.word_states": states}
        return made | ({"teacher.word_logits": _words(states, teacher)} if "teacher.word_logits" in self.needs else {})

    def _with_hidden_words(self, batch: Mapping[str, Tensor], backbone: Backbone) -> tuple[Tensor, Tensor]:
        """(B, L) tokens with words hidden, and (B, L) the words that are asked for, `IGNORED` elsewhere."""
        mask_token = getattr(backbone, "mask_token", None)
        backbone.need("text_blocks")
        if mask_token is None:
            raise CapabilityError(
                f"{self.title}: '{backbone.spec}' has no token for a hidden word; use towers of open_clip, or embedded"
            )
        tokens, draws = batch["tokens"], batch["draws"]
        chosen, fate, other = (Draws.of_places(draws, row, tokens.shape[1]) for row in range(3))
        asked = backbone.word_mask(tokens) & (chosen < self.share)
        others = (other * backbone.vocab_size).long()
        shown = torch.where(asked & (fate < HIDDEN), mask_token, tokens)
        shown = torch.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, shown)
        return shown, torch.where(asked, tokens, IGNORED)


def _words(states: Tensor, backbone: Backbone) -> Tensor:
    """(B, L, T) -> (B, L, V): products with the embeddings of all words."""
    table = backbone.embed_tokens(torch.arange(backbone.vocab_size, device=states.device)[None])[0]
    return states @ table.to(states.dtype).T


def _mean(values: Tensor, where: Tensor, ranks: Ranks) -> Tensor:
    """Over the marked entries of all ranks; 0 where none is marked."""
    total = ranks.total(torch.where(where, values, 0.0).sum())
    return total / ranks.total(where.sum().to(values.dtype)).clamp(min=1)
