"""An ONNX export that answers requests with a number per image, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..contracts.serving import NumberFacts, Refused, Sample, Serving, Wishes, only_answered
from ..errors import CapabilityError, DataError
from ..export.folder import (
    CURE,
    FACTS,
    PIXELS,
    SCRIPT,
    Session,
    is_graph,
    is_number,
    is_preprocessing,
    library,
    read_export,
)
from .exported import ServedPictures

COLUMN = "column"


class ExportedNumbers(ServedPictures):
    """The folder that `vladapt export` wrote.

    Raises:
        DataError: it is damaged. CapabilityError: it has no graph from pictures, or onnxruntime is missing.
    """

    def __init__(self, folder: Path, serving: Serving):
        library("onnxruntime")
        from ..export import standalone
        from ..export.scripts.regression import row_of

        facts = self._facts = read_export(folder)
        graphs, coverage = facts.get("graphs"), facts.get("coverage")
        if not isinstance(graphs, dict) or PIXELS not in graphs or not (folder / SCRIPT).is_file():
            raise CapabilityError(f"{folder}: has no graph from pictures as predict.py prepares them; serve the run")
        usable = {
            "graphs": is_graph(graphs[PIXELS], folder),
            "preprocessing": is_preprocessing(facts.get("preprocessing")),
            COLUMN: isinstance(facts[COLUMN], str),
            "coverage": coverage is None or is_number(coverage),
        }
        if wrong := next((name for name, good in usable.items() if not good), None):
            raise DataError(f"{folder / FACTS}: damaged, {wrong} is not usable; {CURE}")
        self._script, self._row_of, self._max_pixels = standalone, row_of, serving.max_pixels
        self._session = Session(folder / graphs[PIXELS], serving.threads)
        self.name = str(facts.get("run", folder.name))
        named = {"task": str(facts.get("task", "")), "adapter": str(facts.get("adapter", ""))}
        self.facts = NumberFacts(**named, class_names=[], options=[], column=facts[COLUMN], coverage=coverage)

    def answer(self, samples: Sequence[Sample]) -> None:
        outputs = self._session(pixels=np.concatenate([sample.prepared for sample in samples]))
        for place, sample in enumerate(samples):
            try:
                sample.answer = self._row_of(sample.id, outputs, place, self._facts)
            except ValueError as error:
                sample.answer = DataError(str(error))

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        rows = [{**sample.answer, "id": sample.id} for sample in samples]
        return {"run": self.name, "predictions": rows, "skipped": [[each.id, each.reason] for each in skipped]}


def has_numbers(folder: Path) -> bool:
    """Whether an export answers with numbers."""
    return COLUMN in read_export(folder)
