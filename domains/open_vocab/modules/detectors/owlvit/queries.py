"""The queries of OWL-ViT: texts or example images, what they are at test and what is drawn of them in training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ......core.contracts import Backbone
from ......core.prompts import fill
from ....vocabulary import (
    Classes,
    NamedClasses,
    Vocabulary,
    embed_classes,
    encode_classes,
    named_templates,
    text_backbone,
)
from ...segmentors.queries import published_templates

PUBLISHED = "published"


class TextPart(nn.Module):
    """What of a backbone reads texts, as a child of the model that trains it.

    Args:
        backbone: whose device follows `.to()` by other means.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        for name, child in backbone.model.named_children():
            if backbone.tower_of(name) == "text":
                self.add_module(name, child)
        for name, parameter in backbone.model.named_parameters(recurse=False):
            if backbone.tower_of(name) == "text":
                self.register_parameter(name, parameter)
        self.requires_grad_(True)


@dataclass
class DrawnQueries:
    """What the images of a batch are asked in training.

    Args:
        classes: B times the (Q_b,) class indices of an image's queries.
        embeddings: (B, Q, D), Q the most that an image has.
        mask: (B, Q) bool, False where an image has no such query.
    """

    classes: list[Tensor]
    embeddings: Tensor
    mask: Tensor


class OWLQueries(nn.Module, NamedClasses):
    """(C, D) query embeddings; their texts are encoded by the towers of the model where those are trained.

    In training each image is asked for the classes it shows and for random others, each by a prompt drawn at random.

    Args:
        spec: of the backbone.
        classes: as for `Vocabulary.of`.
        templates: at test, where the embeddings of a class's prompts are averaged; as for `Vocabulary.of`.
        train_templates: sets of templates, or templates, of which training draws one per query; "published" is the name
            alone and CLIP's 80 (seven, where open_clip, which has the 80, is missing); None takes in training what is
            taken at test. A class's synonyms and descriptions are drawn too.
        trained: the backbone, where its text tower is trained with the model.
        negatives: random classes an image is asked for besides its own. They are drawn as often as they were met in
            training, one time added for each; where the vocabulary has no more, all are taken.
        max_queries: of one image; those it shows come first.
        canonical: texts in lower case, without punctuation, as the published checkpoints have learned them.

    Attributes:
        names: C names.
        embeddings: (C, D) float32.
    """

    embeddings: Tensor
    met: Tensor

    def __init__(
        self,
        spec: str,
        classes: Classes,
        templates: str | Sequence[str] = "imagenet-7",
        train_templates: str | Sequence[str] | None = PUBLISHED,
        trained: Backbone | None = None,
        negatives: int = 50,
        max_queries: int = 100,
        canonical: bool = True,
    ):
        super().__init__()
        self.spec, self.templates, self.canonical = spec, templates, canonical
        self.negatives, self.max_queries = negatives, max_queries
        self.random_templates = None if train_templates is None else joined_templates(train_templates)
        self._trained = (trained,)  # no child: the model holds its parts
        self.register_buffer("embeddings", torch.zeros(0))
        self.register_buffer("met", torch.zeros(0))
        self.take_classes(Vocabulary.of(classes, templates))

    @property
    def trained(self) -> Backbone | None:
        """The backbone whose text tower is trained with the model, or None."""
        return self._trained[0]

    def __len__(self) -> int:
        return len(self.names)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Ask for these classes from now on."""
        if self.canonical:
            texts = tuple(tuple(canonical_text(text) for text in query) for query in vocabulary.queries)
            vocabulary = replace(vocabulary, queries=texts)
        self.vocabulary, self.names = vocabulary, vocabulary.names
        self._pools, self._known = {}, {}
        self.met = torch.zeros(len(vocabulary), device=self.embeddings.device)
        if self.trained is None:
            embeddings = embed_classes(vocabulary, text_backbone(self.spec))
            self.embeddings = embeddings.to(self.embeddings.device)
        self._stale = self.trained is not None

    def take_embeddings(self, names: Sequence[str], embeddings: Tensor) -> None:
        """Ask for what these embeddings (C, D) stand for, no texts."""
        self.names, self.vocabulary, self._stale = tuple(names), None, False
        self.embeddings = embeddings.detach().float().to(self.embeddings.device)
        self.met = torch.zeros(len(names), device=self.embeddings.device)

    def forward(self) -> Tensor:
        """(C, D), at test."""
        if self._stale:
            with torch.no_grad():
                self.embeddings, self._stale = self._fixed(), False
        return self.embeddings

    def draw(self, shown: Sequence[Tensor], absent: Sequence[Sequence[int]] | None = None) -> DrawnQueries:
        """What each image is asked in training.

        Args:
            shown: B times the (n,) class indices of an image's boxes.
            absent: B times the classes that are known not to be in an image, which come before random ones.
        """
        chosen = [self._choose(*given) for given in zip(shown, absent or [()] * len(shown))]
        if self.random_templates is not None and self.vocabulary is not None:
            embedded = self._embed([self._texts_of(classes) for classes in chosen])
        else:
            fixed = self._fixed()
            embedded = [fixed[classes] for classes in chosen]
        mask = pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in embedded], batch_first=True)
        self._stale = self.trained is not None and self.vocabulary is not None
        return DrawnQueries(chosen, pad_sequence(embedded, batch_first=True), mask.to(self.embeddings.device))

    def _choose(self, shown: Tensor, absent: Sequence[int]) -> Tensor:
        """(Q_b,) classes: those shown, then those known to be absent, then random ones."""
        device, shown = self.embeddings.device, shown.cpu()
        present = torch.unique(shown)
        counts = torch.bincount(shown, minlength=len(self)).to(self.met)
        self.met += counts
        weights = (self.met + 1).cpu()
        weights[present] = 0
        known = torch.tensor([index for index in dict.fromkeys(absent) if weights[index] > 0], dtype=torch.long)
        weights[known] = 0
        wanted = min(max(self.negatives - len(known), 0), int((weights > 0).sum()))
        drawn = torch.multinomial(weights, wanted) if wanted else known[:0]
        return torch.cat([present, known, drawn])[: self.max_queries].to(device)

    def _texts_of(self, classes: Tensor) -> list[str]:
        pools = [self._pool(index) for index in classes.tolist()]
        return [pool[int(torch.randint(len(pool), ()))] for pool in pools]

    def _pool(self, index: int) -> list[str]:
        """All texts of a class that training may draw."""
        if index not in self._pools:
            queries = [q for q, owner in zip(self.vocabulary.queries, self.vocabulary.owners) if owner == index]
            texts = [*fill(self.random_templates, self.names[index]), *(text for query in queries for text in query)]
            texts = map(canonical_text, texts) if self.canonical else texts
            self._pools[index] = list(dict.fromkeys(texts))
        return self._pools[index]

    def _embed(self, rows: list[list[str]]) -> list[Tensor]:
        """B lists of texts -> B times (Q_b, D); each distinct text is encoded once."""
        distinct = list(dict.fromkeys(text for row in rows for text in row))
        place = {text: index for index, text in enumerate(distinct)}
        if not distinct:
            return [self.embeddings.new_zeros(0, self._embed_dim)] * len(rows)
        encoded = self._frozen(distinct) if self.trained is None else self.trained.encode_text(distinct)
        return [encoded[[place[text] for text in row]] for row in rows]

    @property
    def _embed_dim(self) -> int:
        return (self.trained or text_backbone(self.spec)).embed_dim

    @torch.no_grad()
    def _frozen(self, texts: list[str]) -> Tensor:
        """(T, D) by the frozen tower; a text met before is not encoded again."""
        new = [text for text in texts if text not in self._known]
        if new:
            rows = text_backbone(self.spec, str(self.embeddings.device)).encode_text(new)
            self._known.update(zip(new, rows.cpu()))
        return torch.stack([self._known[text] for text in texts]).to(self.embeddings.device)

    def _fixed(self) -> Tensor:
        """(C, D) as at test, with gradients where the tower is trained."""
        if self.trained is None or self.vocabulary is None:
            return self.embeddings
        return encode_classes(self.vocabulary, self.trained)

    def _load_from_state_dict(self, state, prefix, *args, **kwargs):
        # Saved with other names, as many or not: those given now stay, and so do their embeddings.
        state = {**state, f"{prefix}embeddings": self.embeddings}
        if state.get(f"{prefix}met", self.met).shape != self.met.shape:
            state = {**state, f"{prefix}met": self.met}
        self._stale = self.trained is not None and self.vocabulary is not None
        super()._load_from_state_dict(state, prefix, *args, **kwargs)


def joined_templates(templates: str | Sequence[str]) -> list[str]:
    """The distinct templates of several sets."""
    given = ("name", published_templates()) if templates == PUBLISHED else templates
    sets = [given] if isinstance(given, str) else given
    return list(dict.fromkeys(template for named in sets for template in named_templates(named)))


def canonical_text(text: str) -> str:
    """Lower case, letters, digits, hyphens and single spaces; a text that has none of them stays."""
    kept = re.sub(r"[^\w-]|_", " ", text.lower())
    return re.sub(r"-+", "-", " ".join(kept.split())) or text
