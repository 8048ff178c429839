"""`select --wrong-labels`: labels that look wrong, by models that did not learn from the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..contracts.judgement import SELECT, JudgedLabels, Judgement
from ..contracts.run_info import Record
from ..data.label_files import Todo
from ..labelling.wrong_labels import held_out_probabilities, suspects

SUSPECT = "suspect"


@dataclass(frozen=True, eq=False)
class Suspects(Record):
    """Labels that look wrong, as they are listed to be looked at.

    Attributes:
        suspects: the most doubtful first.
        unjudged: images of which nothing can be said.
    """

    key: ClassVar[str] = "wrong_labels"
    suspects: Sequence[Todo]
    unjudged: int

    def note(self) -> str:
        if not self.unjudged:
            return ""
        return f"Images not judged, because no other image or group has their class: {self.unjudged}."


@dataclass(eq=False, kw_only=True)
class WrongLabels(Judgement):
    """Of sets with one label per image, by confident learning."""

    record: ClassVar = Suspects
    judges: ClassVar = JudgedLabels
    at: ClassVar = frozenset({SELECT})

    def compute(self, labels: JudgedLabels) -> Suspects:
        """Raises: as `held_out_probabilities` and `suspects`."""
        features, ids, names = labels.labelled, labels.labelled.ids or (), labels.labelled.class_names
        probabilities = held_out_probabilities(features, labels.fit, labels.seed)
        labelled = [names[label] for label in features.labels.tolist()]
        doubtful = [
            Todo(
                ids[row],
                SUSPECT,
                1,
                names[int(probabilities[row].argmax())],
                float(probabilities[row].max()),
                labelled[row],
            )
            for row in suspects(features.labels, probabilities)
        ]
        return Suspects(doubtful, int((~probabilities.isfinite().all(dim=1)).sum()))
