"""ARL: which entities of a pre-training by loss `arl` an image shows.

Take it after `vladapt pretrain --loss arl`, to ask its model for entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ....core.contracts import Adapter, Batch, FitReport, TextClassifier
from ....core.errors import CapabilityError


@dataclass(eq=False, kw_only=True)
class Arl(Adapter):
    """Align, Reason and Learn: Enhancing Medical Vision-and-Language Pre-training with Knowledge (Chen et al., 2022,
    arXiv 2209.07118).

    A class is the entity of its name, or one that its name mentions, in whatever case. Its logit is that of the
    pre-training's alignment, MLP(v) . g_e: the sigmoid is how probably a text of the image mentions it, also to deny
    it. A class that is no entity is the mean of the entities, each weighted by how probably, by the alignment of texts,
    its own texts mention it. Nothing is learned from the labels.

    Raises:
        CapabilityError: a backbone that loss `arl` did not train, or a class that is no entity and has no texts.

    Example:
        >>> adapter = build_adapter("arl")
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    answers_by: ClassVar[str] = "arl"
    differs: ClassVar[str] = (
        "the released code uses this head in pre-training alone; a class that is no entity is a mean of entities"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "raw_features"})
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    can: ClassVar[frozenset[str]] = frozenset({"new_classes"})
    state: ClassVar[tuple[str, ...]] = ("of_image", "of_text", "entities", "words", "places", "asked")

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        loss = backbone.answers[self.answers_by]
        self.of_image, self.of_text = (_layers_of(loss, side) for side in ("image", "text"))
        self.entities = loss.graph().cpu()  # (E, W)
        places = {name.casefold(): place for place, name in enumerate(loss.entities)}
        for place, words in enumerate(loss.entities.values()):
            for text in words:
                places.setdefault(text.casefold(), place)
        self.words, self.places = list(places), list(places.values())
        unseen = self._ask(classifier)
        notes = [f"Asked for by their texts, since the pre-training knew no such entities: {', '.join(unseen)}."]
        return FitReport(self.name, chosen_on="nothing: the pre-training answers", notes=notes if unseen else [])

    @torch.no_grad()
    def _ask(self, classifier: TextClassifier) -> list[str]:
        """Take an entity, or a mean of them, for each class; returns those that are none."""
        of_name = dict(zip(self.words, self.places))
        places = [of_name.get(name.casefold()) for name in self.class_names_]
        unseen = [number for number, place in enumerate(places) if place is None]
        self.asked = self.entities[[0 if place is None else place for place in places]]  # (C, W)
        if unseen and classifier.unnormalized is None:
            raise CapabilityError(f"adapter '{self.name}' needs the texts of classes that are no entities; give --data")
        if unseen:
            texts = classifier.unnormalized[unseen].float().cpu()
            mentioned = (_mapped(texts, self.of_text) @ self.entities.T).sigmoid()  # (U, E)
            self.asked[unseen] = F.normalize(mentioned, p=1, dim=1) @ self.entities
        return [self.class_names_[number] for number in unseen]

    def for_classes(self, backbone, class_names: Sequence[str], classifier: TextClassifier | None = None) -> Arl:
        self.check_fitted(backbone)
        if classifier is None:
            raise CapabilityError(f"adapter '{self.name}' asks for new classes by their texts; give their classifier")
        other = type(self)(**self.options)
        for name in (*self.state, "backbone_", "dim_", "multilabel_"):
            setattr(other, name, getattr(self, name))
        other.class_names_, other.fitted_ = tuple(class_names), True
        other._ask(classifier)
        return other

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        """(B, C) log odds that a text of the image mentions each class."""
        x = _mapped(batch.features.float(), self.of_image)
        return x @ self.asked.to(x.device).T


def _layers_of(loss, side: str) -> dict[str, Tensor]:
    """What becomes of the features of images or of texts before they meet entities, on the CPU."""
    first, _, second, _ = loss.scores[side].layers
    start = loss.image_map if side == "image" else loss.text_map
    made = {"map.weight": start.weight, "map.bias": start.bias + loss.kinds[side]}
    for name, layer in (("first", first), ("second", second)):
        made |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    return {name: value.detach().cpu().clone() for name, value in made.items()}


def _mapped(x: Tensor, layers: dict[str, Tensor]) -> Tensor:
    """(B, D) features, not normalised -> (B, W), what is multiplied by entities."""
    for name in ("map", "first", "second"):
        x = F.linear(x, layers[f"{name}.weight"].to(x.device), layers[f"{name}.bias"].to(x.device))
        x = x if name == "map" else x.relu()
    return x
