"""A published run among the methods of a comparison: `compare --adapters tip-adapter,hf:OWNER/NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..contracts.adapter import Adapter, FitReport
from ..contracts.backbone import Backbone
from ..contracts.features import Batch
from ..errors import CapabilityError, ConfigError
from ..registry.build import adapter_class, load_adapter
from ..runs.folder import Run, open_run

ANSWERED = frozenset({"features", "pre_projection", "text_encoder", "pixels", "parts", "patch_tokens"})
"""What a comparison can give a method at prediction without more being said."""


@dataclass(eq=False, kw_only=True)
class Published(Adapter):
    """A run as its author fitted it: it learns nothing from the shots, and names the data's classes alone.

    Its classes are matched by name, in whatever order; the data may have fewer of them, not others.

    Raises:
        CapabilityError: another backbone, or a class that the run does not have.
    """

    place: ClassVar[str] = ""
    label_free: ClassVar[bool] = True
    text_free: ClassVar[bool] = True

    @classmethod
    def at(cls, place: str) -> type[Published]:
        """The class of the method that the published run at a place is.

        Raises:
            DataError: no run lies there. ConfigError: its method reads all images together, or more than the images.
        """
        method = adapter_class(Run.open(place).info.adapter)
        if method.transductive or "streams" in method.can or not method.at_predict <= ANSWERED:
            raise ConfigError(
                f"{place}: adapter '{method.name}' does not answer image by image; use `vladapt eval {place}`"
            )
        needs = method.at_predict & method.needs
        asks = {"at_predict": method.at_predict, "multilabel": method.multilabel, "needs": needs}
        return type("Published", (cls,), {**asks, "place": place})

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        run = open_run(self.place, None if backbone is None else backbone.spec)
        theirs = run.info.backbone.fingerprint
        if self.backbone_ and theirs and theirs != self.backbone_:
            raise CapabilityError(
                f"{self.place}: was fitted on backbone '{run.info['recipe']['backbone']}' ({theirs}), this is a "
                f"different one ({self.backbone_}); give the one of the fit with --backbone"
            )
        self._fitted = load_adapter(run.adapter_path, backbone).to(support.features.device)
        self._columns = self._matched(self._fitted.class_names_)
        self.multilabel_ = self._fitted.multilabel_
        return FitReport(self.name, notes=[f"{self.place} was fitted by its author; nothing was learned here"])

    def _matched(self, have: Sequence[str]) -> list[int]:
        """Columns of the run's logits, in the order of the data's classes."""
        for name in self.class_names_:
            if name not in have:
                raise CapabilityError(
                    f"{self.place}: class '{name}' of the data is not one of its classes ({', '.join(have[:8])}); "
                    "rename the class, or leave it out with --classes"
                )
        return [have.index(name) for name in self.class_names_]

    def adapted(self, backbone: Backbone) -> Backbone:
        return self._fitted.adapted(backbone)

    def to(self, device) -> Published:
        self._fitted.to(device)
        return self

    def _logits(self, batch: Batch) -> Tensor:
        return self._fitted.logits(batch)[:, self._columns]
