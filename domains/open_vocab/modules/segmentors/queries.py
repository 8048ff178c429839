"""The words that pixels are compared with: one or more per class, and those of the background."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .....core.errors import ConfigError
from ...vocabulary import Classes, NamedClasses, Vocabulary, embed_queries, text_backbone


def published_templates() -> str:
    """The 80 templates of CLIP's ImageNet classifier, which come with open_clip; without it seven of them."""
    return "imagenet-80" if find_spec("open_clip") else "imagenet-7"


class Queries(nn.Module, NamedClasses):
    """(Q, D) unit embeddings of what is looked for, and whose each is; kept outside checkpoints, made from the names.

    Args:
        backbone: spec of the backbone whose text tower encodes the names.
        classes, templates: as for `Vocabulary.of`; synonyms are queries of their own.
        background: name of the class that stands for everything else, if it is among the classes.
        background_words: what else there is in images, "sky, wall, tree". They stand for the background class, in
            place of its name; where no class is the background they compete with the classes and are given no pixel.

    Attributes:
        names: C names.
        embeddings: (Q, D) float32, those of each class together, in the order of the classes.
        counts: how many queries each class has; further ones belong to no class.
        background_index: which class is the background, or None.
        asked: the vocabulary of the Q queries.
    """

    embeddings: Tensor

    def __init__(
        self,
        backbone: str,
        classes: Classes,
        templates: str | Sequence[str],
        background: str = "background",
        background_words: str | Sequence[str] = (),
    ):
        super().__init__()
        words = background_words.split(",") if isinstance(background_words, str) else background_words
        self.words = [word.strip() for word in words if word.strip()]
        self.spec, self.templates, self.background = backbone, templates, background
        self.register_buffer("embeddings", torch.zeros(0), persistent=False)
        self.take_classes(Vocabulary.of(classes, templates))

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.names)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the names and their embeddings."""
        self.names, self.vocabulary = vocabulary.names, vocabulary
        self.background_index = vocabulary.position(self.background)
        self.asked = asked = self._with_background_words(vocabulary)
        self.counts = [asked.owners.count(index) for index in range(len(vocabulary))]
        embeddings = embed_queries(asked, text_backbone(self.spec))
        self.embeddings = embeddings.to(self.embeddings.device)

    def forward(self) -> Tensor:
        """(Q, D)."""
        return self.embeddings

    def best_of_each(self, scores: Tensor) -> Tensor:
        """(Q, ...) of the queries -> (C, ...): of each class the best of its queries."""
        if all(count == 1 for count in self.counts):
            return scores[: len(self.counts)]
        per_class = scores[: sum(self.counts)].split(self.counts)
        return torch.stack([several.amax(dim=0) for several in per_class])

    def need_background(self, option: str) -> int:
        """Index of the background class.

        Raises:
            ConfigError: no class is it, and `option` gives pixels to it.
        """
        if self.background_index is None:
            raise ConfigError(
                f"option {option} gives pixels to the background, and no class is named '{self.background}'; name it "
                "among the classes, or say by background=NAME which of them it is"
            )
        return self.background_index

    def _with_background_words(self, vocabulary: Vocabulary) -> Vocabulary:
        if not self.words:
            return vocabulary
        filled = Vocabulary.of(self.words, self.templates).queries
        owner = len(vocabulary) if self.background_index is None else self.background_index
        kept = [pair for pair in zip(vocabulary.owners, vocabulary.queries) if pair[0] != owner]
        pairs = sorted([*kept, *((owner, query) for query in filled)], key=lambda pair: pair[0])
        return Vocabulary(vocabulary.names, tuple(query for _, query in pairs), tuple(owner for owner, _ in pairs))
