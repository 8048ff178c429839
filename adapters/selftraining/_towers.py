"""What methods that train the towers on images without labels share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from ...core.contracts import Adapter, Backbone, Batch, FitReport, Loss, TrainingImages, TrainingPlace
from ...core.errors import CapabilityError
from ...core.training import ImageSource, Remembered, TowerAdapter, TrainingTask
from ..weights._norms import norms_of
from ..weights._one_way import ONE_WAY

View = Callable[[Any, int], Tensor]


@dataclass(eq=False, kw_only=True)
class SelfTrained(TowerAdapter):
    """Base of the methods that train towers on images whose labels they make themselves.

    They find the images in `resources["unlabeled_images"]` and their features in `unlabeled`, and train by a loss of
    their own. No labelled image is used, nothing is chosen on val, and the last weights are kept. A method implements
    `_fit` by `_self_train` and sets what names the classes afterwards.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"features", "pixels", "text_encoder", "unlabeled"})
    can: ClassVar[frozenset[str]] = frozenset()
    multilabel: ClassVar[bool] = False
    label_free: ClassVar[bool] = True
    # no options: the method has its own schedule
    fixed: ClassVar[Mapping[str, Any]] = {**ONE_WAY, "warmup": 0.0, "prompts_a_class": None, "layer_decay": 1.0}

    def _settings_of_method(self, epochs: int) -> dict[str, Any]:
        return {**super()._settings_of_method(epochs), "drop_last": False}

    def settled(self, report: FitReport) -> dict[str, Any]:
        return Adapter.settled(self, report)

    def _self_train(
        self,
        loss: Loss,
        images: TrainingImages,
        backbone: Backbone,
        *,
        epochs: int,
        place: TrainingPlace | None,
        seed: int,
        view: View,
        strong_view: View | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        identity: Mapping[str, Any] | None = None,
    ) -> FitReport:
        """Train a copy of the towers by the loss, and keep what changed.

        Args:
            loss: the method's own.
            images: without labels.
            backbone: the towers to start from.
            view, strong_view: of an image, where the loss needs "pixels" and "pixels_strong1".
            prompts: C lists of texts, where the loss needs "class_features".
            identity: facts that a checkpoint must share, besides the images and the classes.
        """
        self.backbone_, self.templates = backbone.fingerprint, []
        task = TrainingTask(
            source=ImageSource(images.items, Remembered(images.load)),
            losses={},
            own={self.name: loss},
            class_prompts=prompts,
            view=view,
            strong_view=strong_view,
            identity={
                "classes": list(self.class_names_),
                "images": self._digest([item.id for item in images.items]),
                **(identity or {}),
            },
        )
        report = self._train(task, epochs, backbone, None, place, seed)
        self.negative, self.weights = None, None
        self._note_scale(backbone)
        return report

    def fit_pairs(self, source, backbone: Backbone, **options) -> FitReport:
        raise CapabilityError(f"adapter '{self.name}' learns from classes, which pairs do not have; use full")

    def _rows(self, batch: Batch, rows: Tensor) -> Tensor:
        """(B, C) scaled cosines of a batch by the trained image tower with (C, D) unit rows."""
        unit = self._unit(batch)
        return self.logit_scale * unit @ rows.to(unit.device).T


def as_tested(images: TrainingImages) -> View:
    """The view of an image that is not augmented."""
    return lambda decoded, seed: images.eval_transform(decoded)


def train_norms(backbone: Backbone, towers: Sequence[str]) -> list[str]:
    """Let the norms (layer and batch norms) of these towers train, "image" or "text", and nothing else.

    Returns:
        Sentences on towers that have none.

    Raises:
        CapabilityError: none of them has any.
    """
    found = {tower: norms_of(backbone, tower, (nn.LayerNorm, nn.BatchNorm2d)) for tower in towers}
    for parameter in [parameter for norms in found.values() for parameter in norms]:
        parameter.requires_grad_(True)
    lacking = [tower for tower, norms in found.items() if not norms]
    if len(lacking) == len(towers):
        raise CapabilityError(f"backbone '{backbone.spec}' has no norms in its {' or '.join(towers)} tower to train")
    return [f"Backbone '{backbone.spec}': its {tower} tower has no norms to train" for tower in lacking]
