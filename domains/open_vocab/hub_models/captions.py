"""Names as captions of a grounded detector, "[CLS] cat. dog. [SEP]", and which tokens of a caption are whose.

A detector of this kind scores every token of the caption. transformers takes from its scores phrases, by a threshold
per token; here a name's score is the mean over its own tokens, as the authors evaluate (Grounding DINO, 2023, arXiv
2303.05499; MM-Grounding-DINO, 2024, arXiv 2401.02361), and what a token belongs to is known from how the caption was
written, not read from full stops. A full stop or a question mark inside a name would end the phrase in the model's
attention, so it is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....core.errors import ConfigError
from ..vocabulary import Vocabulary
from .tokens import HeldTokenizer

START, END, STOP, QUESTION = "[CLS]", "[SEP]", ".", "?"
ENDS = 2
"""Tokens before the first name and after the last."""


@dataclass(frozen=True)
class Phrase:
    """A name in a caption.

    Args:
        tokens: numbers of its tokens, and of what is said of it after a comma.
        name: how many of them, from the first, are the name's.
        owner: index of its class.
    """

    tokens: tuple[int, ...]
    name: int
    owner: int

    def __len__(self) -> int:
        """In a caption, with the full stop after it."""
        return len(self.tokens) + 1


@dataclass(frozen=True)
class PhraseCaption:
    """Some phrases in one text.

    Args:
        numbers: (L,) of its tokens.
        spans: first and last but one token of each phrase's name.
        owners: index of each phrase's class.
    """

    numbers: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    owners: tuple[int, ...]

    @property
    def classes(self) -> tuple[int, ...]:
        """Classes that it asks for, in ascending order."""
        return tuple(sorted(set(self.owners)))

    def label_map(self, length: int, device: torch.device | None = None) -> Tensor:
        """(P, `length`) of 0 and 1: which tokens are each phrase's name."""
        starts, stops = torch.tensor(self.spans, device=device).reshape(-1, 2, 1).unbind(dim=1)  # (P, 1) each
        places = torch.arange(length, device=device)
        return ((places >= starts) & (places < stops)).long()

    def scores(self, logits: Tensor) -> Tensor:
        """Logits (B, Q, at least L) of tokens -> scores (B, Q, C) of `classes`: of each class the best of its phrases,
        of each phrase the mean of its name's tokens."""
        weights = self.label_map(logits.shape[-1], logits.device).to(logits.dtype)
        phrases = logits.sigmoid() @ (weights / weights.sum(dim=1, keepdim=True)).T  # (B, Q, P)
        classes = {owner: place for place, owner in enumerate(self.classes)}
        places = torch.tensor([classes[owner] for owner in self.owners], device=logits.device).expand_as(phrases)
        best = phrases.new_zeros(*phrases.shape[:-1], len(classes))
        return best.scatter_reduce(-1, places, phrases, "amax")  # none is below 0


def phrases_of(vocabulary: Vocabulary, tokenizer: HeldTokenizer, longest: int) -> list[Phrase]:
    """A phrase per name and synonym, in the order of the classes; the first description follows a name.

    Args:
        vocabulary: of bare names: its templates are "name".
        longest: tokens of a caption; a longer phrase is cut.

    Raises:
        ConfigError: a name without letters.
    """
    delimiters = {tokenizer.number(token) for token in (START, END, STOP, QUESTION)}
    phrases = []
    for query, owner in zip(vocabulary.queries, vocabulary.owners, strict=True):
        name, described = query[0], ", ".join(query[:2])
        own, whole = (
            [n for n in tokenizer.bare(text.strip().lower()) if n not in delimiters] for text in (name, described)
        )
        if not own:
            raise ConfigError(f"--classes: '{name}' has nothing that the model's tokenizer can read; name it otherwise")
        room = longest - ENDS - 1
        phrases.append(Phrase(tuple(whole[:room]), min(len(own), room), owner))
    return phrases


def captions_of(phrases: Sequence[Phrase], tokenizer: HeldTokenizer, longest: int) -> list[PhraseCaption]:
    """All phrases in as few captions as hold them in their order, those of one class together.

    Args:
        longest: tokens of a caption.
    """
    parts: list[list[Phrase]] = [[]]
    groups: dict[int, list[Phrase]] = {}
    for phrase in phrases:
        groups.setdefault(phrase.owner, []).append(phrase)
    for group in list(groups.values()):
        room = longest - ENDS - sum(map(len, parts[-1]))
        if parts[-1] and sum(map(len, group)) > room:
            parts.append([])
        parts[-1] += group
    return [caption_of(piece, tokenizer) for part in parts for piece in _pieces(part, longest)]


def caption_of(phrases: Sequence[Phrase], tokenizer: HeldTokenizer) -> PhraseCaption:
    """One caption of these phrases."""
    numbers, spans = [tokenizer.number(START)], []
    for phrase in phrases:
        spans.append((len(numbers), len(numbers) + phrase.name))
        numbers += [*phrase.tokens, tokenizer.number(STOP)]
    owners = tuple(phrase.owner for phrase in phrases)
    return PhraseCaption((*numbers, tokenizer.number(END)), tuple(spans), owners)


def drawn(lengths: Sequence[int], present: Iterable[int], absent: Sequence[int], room: int) -> list[int]:
    """Which classes a training batch is asked for, as indices in the order of the caption.

    All in their order where they fit. Else those that the batch shows, then those known to be absent from its images,
    then others, each group in random order, until the caption is full. Classes that are shown but do not fit are not
    asked for this time, and their boxes are not learned from; every caption is drawn anew.

    Args:
        lengths: tokens of each class.
        present: classes that are shown; not looked at where all classes fit.
        room: tokens of all.
    """
    if sum(lengths) <= room:
        return list(range(len(lengths)))
    shown = set(present)
    known = [index for index in dict.fromkeys(absent) if index not in shown]
    others = sorted(set(range(len(lengths))) - shown - set(known))
    chosen, used = [], 0
    for group in (sorted(shown), known, others):
        for place in torch.randperm(len(group)).tolist():
            length = lengths[group[place]]
            if used + length <= room:
                chosen.append(group[place])
                used += length
    return chosen


def _pieces(phrases: Sequence[Phrase], longest: int) -> list[list[Phrase]]:
    """The same, in several parts where the synonyms of one class alone are more than a caption holds."""
    pieces: list[list[Phrase]] = [[]]
    for phrase in phrases:
        if pieces[-1] and ENDS + sum(map(len, pieces[-1])) + len(phrase) > longest:
            pieces.append([])
        pieces[-1].append(phrase)
    return pieces
