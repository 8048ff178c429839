"""Class names in a pipeline, as what a grounded detector is asked for."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import BaseTransform

from .....core.contracts.errors import ConfigError
from .....registry import TRANSFORMS
from ...vocabulary import Classes, Vocabulary


@TRANSFORMS.register_module()
class ClassPrompt(BaseTransform):
    """Puts the class names into each sample as `text`, told apart by `custom_entities`: no noun phrases are searched.

    mmdet's CocoDataset does the same with `return_classes=True`; this works for any data set. Before
    `mmdet.PackDetInputs` its `meta_keys` must have `text` and `custom_entities`; after it nothing is to be done.

    Args:
        classes: names in the order of the labels, as for `Vocabulary.of`; None takes the `text` that a data set gives.

    Raises:
        ConfigError: no names are given, and the sample has no `text`.
    """

    def __init__(self, classes: Classes | None = None):
        self.names = None if classes is None else Vocabulary.of(classes, "name").names

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        packed = results.get("data_samples")
        given = results.get("text") if packed is None else packed.get("text")
        prompt = {"text": self.names or self._listed(given), "custom_entities": True}
        if packed is None:
            return {**results, **prompt}
        packed.set_metainfo(prompt)
        return results

    def _listed(self, text: Any) -> tuple[str, ...]:
        if not text:
            raise ConfigError("ClassPrompt: the data set gives no names; name them: classes='a, b, c'")
        if isinstance(text, str):
            return tuple(name.strip() for name in text.split(".") if name.strip())
        return tuple(text.values() if isinstance(text, dict) else text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(classes={self.names})"
