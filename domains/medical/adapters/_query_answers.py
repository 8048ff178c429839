"""Findings by the queries of a pre-training: what the adapters `medklip` and `medslip` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.backbones import KeptLoss
from ....core.contracts import Batch, ByAttention, FitReport, TextClassifier
from ....core.errors import CapabilityError

PAIRS_AT_ONCE = 1 << 24
"""Pairs of queries that look at each other at once."""


@dataclass(eq=False, kw_only=True)
class QueryAnswers(ByAttention):
    """Base of methods that ask what a pre-training learned, and learn nothing themselves.

    A class is the finding of its name, in whatever case. One of another name is asked for by its texts, beside the
    known ones: a finding that was never learned. All findings look at an image together, as in the training.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "patch_tokens"})
    at_predict: ClassVar[frozenset[str]] = frozenset({"patch_tokens"})
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_tokens"})
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    state: ClassVar[tuple[str, ...]] = ("words", "weights", "texts", "places", "grid")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        loss = backbone.answers[self.answers_by]
        kept = KeptLoss.of(loss)
        self.words, self.weights = kept.words, kept.weights
        self._built: Any = None
        self.grid = list(resources["patch_tokens"].grid)
        known = self._ask(classifier, tuple(loss.findings))
        unseen = [name for name, asked in zip(self.class_names_, known) if not asked]
        notes = [f"Asked for by their texts, since the pre-training knew no such findings: {', '.join(unseen)}."]
        return FitReport(self.name, chosen_on="nothing: the pre-training answers", notes=notes if unseen else [])

    def _ask(self, classifier: TextClassifier, findings: tuple[str, ...]) -> list[bool]:
        """Take the texts of all findings and of other classes as queries; returns which classes are findings."""
        of_name = {name.casefold(): place for place, name in enumerate(findings)}
        places = [of_name.get(name.casefold()) for name in self.class_names_]
        known = [place is not None for place in places]
        if not all(known) and classifier.unnormalized is None:
            raise CapabilityError(f"adapter '{self.name}' needs the texts of classes that are no findings; give --data")
        texts = classifier.weights if classifier.unnormalized is None else classifier.unnormalized
        unseen = texts[[number for number, each in enumerate(known) if not each]]
        rest = iter(range(len(findings), len(findings) + len(unseen)))
        self.texts = torch.cat([self.weights["book_of_findings"].to(unseen), unseen])
        self.places = torch.tensor([next(rest) if place is None else place for place in places])
        return known

    def for_classes(self, backbone, class_names, classifier=None) -> QueryAnswers:
        self.check_fitted(backbone)
        if classifier is None:
            raise CapabilityError(f"adapter '{self.name}' asks for new classes by their texts; give their classifier")
        other = type(self)(**self.options)
        for name in ("words", "weights", "grid", "backbone_", "dim_", "multilabel_"):
            setattr(other, name, getattr(self, name))
        other.class_names_, other.fitted_ = tuple(class_names), True
        other._ask(classifier, tuple(self._learned(classifier.weights.device).findings))
        return other

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        """(B, C) log odds of presence; of a sample of several parts their mean."""
        patches = self._patches(batch)  # (B, T, h, w, D)
        tokens = patches.flatten(2, 3).flatten(0, 1)  # (B T, P, D)
        there = patches.flatten(2).any(dim=2)  # (B, T)
        loss, texts = self._learned(tokens.device), self.texts.to(tokens.device)
        at_once = max(1, PAIRS_AT_ONCE // len(texts) ** 2)
        logits = torch.cat([loss.logits_of(some, texts) for some in tokens.split(at_once)])  # (B T, Q, 2)
        odds = (logits[..., 1] - logits[..., 0])[:, self.places.to(tokens.device)].unflatten(0, patches.shape[:2])
        return (odds * there[..., None]).sum(dim=1) / there.sum(dim=1, keepdim=True).clamp(min=1)

    @torch.no_grad()
    def attention_maps(self, batch: Batch) -> Tensor:
        patches = self._patches(batch)[:, 0]  # (B, h, w, D)
        loss, texts = self._learned(patches.device), self.texts.to(patches.device)
        maps = loss.maps_of(patches.flatten(1, 2), texts)[:, self.places.to(patches.device)]  # (B, C, P)
        return maps.unflatten(2, patches.shape[1:3])

    def _patches(self, batch: Batch) -> Tensor:
        if batch.patch_tokens is None:
            raise CapabilityError(f"adapter '{self.name}' looks at patches; pass Batch(patch_tokens=...)")
        if (grid := list(batch.patch_tokens.shape[2:4])) != self.grid:
            sizes = f"was fitted on {self.grid[0]} x {self.grid[1]} patches, these are {grid[0]} x {grid[1]}"
            raise CapabilityError(f"adapter '{self.name}' {sizes}; use the backbone and image size of the fit")
        return batch.patch_tokens

    def _learned(self, device: torch.device) -> Any:
        """What the pre-training learned, built once."""
        if getattr(self, "_built", None) is None:
            kept = KeptLoss(self.words, self.weights)
            self._built = kept.built(device, f"adapter '{self.name}'", "answers")
        return self._built.to(device)
