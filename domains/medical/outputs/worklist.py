"""A worklist: studies in the order in which they should be read, most urgent first, as a table (CSV).

A study is as urgent as its most urgent image. Its ids are hashes: of a DICOM study `study-` and the first 16
hexadecimal digits of the SHA-256 of its Study Instance UID, by which a system that knows the UIDs finds it; of other
images `image-` and those of the path as it was given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ....core.contracts import Item, OutputKind, Task, Use, option
from ....core.data import csv_text
from ....core.errors import ConfigError, UnknownNameError, did_you_mean
from ....core.runtime import write_whole
from ..dicom_header import read_header
from ._dicom import is_dicom_item

FILE = "worklist.csv"
HEADER = ("rank", "study", "patient", "urgency", "answer", "finding", "images", "unlike")


@dataclass(frozen=True)
class WorklistEntry:
    """A study, as urgent as the most urgent of its images.

    Args:
        named: whether an urgent finding is an answer of the run: at its operating point where it has one.
        urgency: the probability that there is an urgent finding: of classes that exclude each other their sum, of
            several labels the largest.
        finding: the likeliest one.
        images: of it.
        unlike: whether the run says of one of them that it is unlike those of its fit.
    """

    study: str
    patient: str
    named: bool
    urgency: float
    finding: str
    images: int
    unlike: bool

    def joined(self, other: WorklistEntry) -> WorklistEntry:
        """Of both."""
        first = max(self, other, key=lambda each: (each.named, each.urgency))
        unlike, images = self.unlike or other.unlike, self.images + other.images
        return WorklistEntry(
            self.study, self.patient or other.patient, first.named, first.urgency, first.finding, images, unlike
        )


@dataclass(eq=False, kw_only=True)
class Worklist(OutputKind):
    """Studies in the order in which they should be read, with hashed ids (worklist.csv)."""

    made_of: ClassVar = OutputKind.ANSWERS

    urgent: tuple[str, ...] | None = option(
        None,
        "the classes or labels that are urgent; by default the finding of two classes, and each of several labels",
    )

    def check(self, use: Use, task: Task) -> None:
        names = list(use.run.info.class_names)
        for name in self.urgent or ():
            if name not in names:
                raise UnknownNameError(
                    f"--as {self.name}:urgent={name}: is no class of this run; {did_you_mean(name, names)}"
                )
        if self.urgent is None and use.run.info.data.kind != "multilabel" and len(names) != 2:
            raise ConfigError(
                f"--as {self.name}: this run tells {len(names)} classes; name the urgent ones, as in "
                f"--as {self.name}:urgent={names[0]}"
            )

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        entries: dict[str, WorklistEntry] = {}
        for n in range(len(predicted.ids)):
            entry = self._entry(predicted, n)
            known = entries.get(entry.study)
            entries[entry.study] = entry if known is None else known.joined(entry)
        ranked = sorted(entries.values(), key=lambda each: (not each.named, -each.urgency, each.study))
        rows = [
            (
                rank,
                each.study,
                each.patient,
                f"{each.urgency:.6f}",
                "yes" if each.named else "no",
                each.finding,
                each.images,
                "yes" if each.unlike else "no",
            )
            for rank, each in enumerate(ranked, start=1)
        ]
        write_whole(folder / FILE, csv_text(HEADER, rows))
        return [folder / FILE]

    def _entry(self, predicted: Any, n: int) -> WorklistEntry:
        """Of one row."""
        names, probs = list(predicted.class_names), predicted.probabilities[n]
        urgent = [names.index(name) for name in self._urgent(predicted)]
        if predicted.answers is not None:
            named = [c for c in urgent if predicted.answers[n, c]]
        else:
            answer = int(probs.argmax() if predicted.called is None else predicted.called[n])
            named = [c for c in urgent if c == answer]
        most = max(named or urgent, key=lambda c: float(probs[c]))
        items = predicted.sources[predicted.ids[n]]
        unlike = predicted.columns.get("unlike")
        urgency = float(probs[most]) if predicted.answers is not None else min(1.0, float(probs[urgent].sum()))
        return WorklistEntry(
            *_ids(predicted.ids[n], items),
            named=bool(named),
            urgency=urgency,
            finding=names[most],
            images=len(items),
            unlike=bool(unlike and unlike[n]),
        )

    def _urgent(self, predicted: Any) -> tuple[str, ...]:
        if self.urgent is not None:
            return self.urgent
        return predicted.class_names if predicted.answers is not None else (predicted.finding,)


def _ids(name: str, items: Sequence[Item]) -> tuple[str, str]:
    """Of the study and of the patient, hashed; of images of several studies, as of a patient, and of those that name
    none, the row's own."""
    headers = [read_header(item.source) for item in items if is_dicom_item(item)]
    studies = {header.study for header in headers}
    study = studies.pop() if len(studies) == 1 else None
    own = f"image-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return study or own, next((header.patient for header in headers if header.patient), "")
