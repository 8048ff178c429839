"""ARL: which entities of a pre-training by loss `arl` an image shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....core.contracts import Adapter, Batch, FitReport
from ....core.errors import UnknownNameError, did_you_mean


@dataclass(eq=False, kw_only=True)
class Arl(Adapter):
    """Align, Reason and Learn: Enhancing Medical Vision-and-Language Pre-training with Knowledge (Chen et al., 2022,
    arXiv 2209.07118).

    A class is the entity of its name, or one that words of its name mention, in whatever case; its logit is that of the
    pre-training's alignment, MLP(v) . g_e, whose sigmoid is the probability that a text of the image mentions it.
    Nothing is learned from the labels. The published evaluations are fine-tunings (questions, captions, retrieval by
    pairs), which are not here.

    Raises:
        CapabilityError: a backbone that loss `arl` did not train. UnknownNameError: a class that is no entity.

    Example:
        >>> adapter = build_adapter("arl")
        >>> report = adapter.fit(support, classifier, backbone=backbone)
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    answers_by: ClassVar[str] = "arl"
    differs: ClassVar[str] = "the released code uses this head in pre-training alone"
    needs: ClassVar[frozenset[str]] = frozenset({"features", "raw_features"})
    multilabel: ClassVar[bool] = True
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("layers", "entities")

    @torch.no_grad()
    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        loss = backbone.answers[self.answers_by]
        places = self._places(loss.entities)
        self.entities = loss.graph()[places].cpu()  # (C, width of entities)
        first, _, second, _ = loss.scores["image"].layers
        steps = {"map": loss.image_map, "first": first, "second": second}
        self.layers = {f"{name}.{part}": value for name, step in steps.items() for part, value in _of(step).items()}
        self.layers["map.bias"] = self.layers["map.bias"] + loss.kinds["image"].detach().cpu()
        return FitReport(self.name, chosen_on="nothing: the pre-training answers")

    def _places(self, entities: Any) -> list[int]:
        """Of the entity of each class.

        Raises:
            UnknownNameError: a class is none.
        """
        of_name = {text.casefold(): place for place, words in enumerate(entities.values()) for text in reversed(words)}
        of_name |= {name.casefold(): place for place, name in enumerate(entities)}
        for name in self.class_names_:
            if name.casefold() not in of_name:
                raise UnknownNameError(
                    f"adapter '{self.name}': class '{name}' is none of the {len(entities)} entities that were learned; "
                    f"{did_you_mean(name, list(of_name))}"
                )
        return [of_name[name.casefold()] for name in self.class_names_]

    @torch.no_grad()
    def _logits(self, batch: Batch) -> Tensor:
        """(B, C) log odds that a text of the image mentions each class."""
        x = batch.features.float()
        layers = {name: value.to(x.device) for name, value in self.layers.items()}
        for name in ("map", "first", "second"):
            x = torch.nn.functional.linear(x, layers[f"{name}.weight"], layers[f"{name}.bias"])
            x = x if name == "map" else x.relu()
        return x @ self.entities.to(x.device).T


def _of(layer: torch.nn.Linear) -> dict[str, Tensor]:
    """Its weights on the CPU, of their own."""
    return {name: value.detach().cpu().clone() for name, value in layer.named_parameters()}
