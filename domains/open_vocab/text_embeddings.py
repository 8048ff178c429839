"""Class names as a classifier: unit text embeddings that a model carries, and that new names replace at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CapabilityError
from .vocabulary import Classes, NamedClasses, Vocabulary, embed_classes, text_backbone


class TextEmbeddings(nn.Module, NamedClasses):
    """(C, D) unit embeddings of a vocabulary; a buffer, saved with the model that holds it.

    Args:
        backbone: spec of the backbone whose text tower encodes the names. It is built when they are encoded, kept
            outside the model, and not trained.
        classes: as for `Vocabulary.of`.
        templates: as for `Vocabulary.of`.

    Attributes:
        names: C names.
        embeddings: (C, D) float32.
    """

    embeddings: Tensor

    def __init__(self, backbone: str, classes: Classes, templates: str | Sequence[str] = "photo"):
        super().__init__()
        self.spec, self.templates = backbone, templates
        self.register_buffer("embeddings", torch.zeros(0))
        self.take_classes(Vocabulary.of(classes, templates))

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.embeddings.shape[1]

    def __len__(self) -> int:
        return len(self.names)

    def take_classes(self, vocabulary: Vocabulary) -> None:
        """Replace the names and their embeddings."""
        embeddings = embed_classes(vocabulary, text_backbone(self.spec))
        self.names, self.vocabulary = vocabulary.names, vocabulary
        self.embeddings = embeddings.to(self.embeddings.device)

    def forward(self) -> Tensor:
        """(C, D)."""
        return self.embeddings

    def _load_from_state_dict(self, state, prefix, *args, **kwargs):
        # Saved with other names, as many or not: those given now stay, and so do their embeddings.
        state = {**state, f"{prefix}embeddings": self.embeddings}
        super()._load_from_state_dict(state, prefix, *args, **kwargs)


class KeptTexts(nn.Module):
    """A part that keeps in `_kept` what a text tower makes of its classes, until it trains again: weights that were
    averaged or loaded do not show in a tensor's version."""

    _kept: Any = None

    def train(self, mode: bool = True):
        self._kept = None
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs):
        self._kept = None
        super()._load_from_state_dict(*args, **kwargs)


def set_classes(model: nn.Module, classes: Classes, templates: str | Sequence[str] | None = None) -> Vocabulary:
    """Give all parts of a model that know class names new ones: every `NamedClasses` module.

    Args:
        classes: as for `Vocabulary.of`.
        templates: None keeps those each part has.

    Raises:
        CapabilityError: no part of the model takes names.
    """
    takers = [module for module in model.modules() if isinstance(module, NamedClasses)]
    if not takers:
        raise CapabilityError(
            f"{type(model).__name__}: takes no class names, its classes are fixed; give it a text classifier "
            "(docs/open-vocab.md)"
        )
    for module in takers:
        kept = getattr(module, "templates", "photo")
        vocabulary = Vocabulary.of(classes, kept if templates is None else templates)
        module.take_classes(vocabulary)
    _count_again(model)
    return vocabulary


def _count_again(model: nn.Module) -> None:
    """mmseg's segmentors hold copies of their head's counts, from when they were built."""
    for module in model.modules():
        head = getattr(module, "decode_head", None)
        head = head[-1] if isinstance(head, nn.ModuleList) else head
        if isinstance(head, NamedClasses) and not isinstance(module, NamedClasses):
            module.num_classes, module.out_channels = head.num_classes, head.out_channels
