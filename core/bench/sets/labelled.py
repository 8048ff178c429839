"""Images with labels as `fit --data` reads them: folders and tables of your own, and sets that protocols know.

They are scored zero-shot by the prompts of the domain, or of the set that it recognises.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ...contracts.bench import BenchScore, BenchSet, BenchTowers
from ...contracts.prepared import PreparedData
from ...errors import DataError
from ...metrics.intervals import units_of
from ...tasks.classification.protocols import PROTOCOLS, ZERO_SHOT, Setting
from ..scoring import classification_scores, several_labels_scores

MEASURE = "acc1"
"""What protocols publish."""


@dataclass(eq=False, kw_only=True)
class Labelled(BenchSet):
    """Zero-shot classification of the test images, or of all where the data name no split. Images of a patient, a
    person or a video count together in intervals.

    Of a set that a protocol knows, the zero-shot accuracy that is published with the same prompts stands beside.
    """

    fallback = 2
    by_domain = True

    of_backbone: dict[str, PreparedData] = field(default_factory=dict, init=False, repr=False)
    undivided: str = field(default="", init=False, repr=False)

    @classmethod
    def recognises(cls, place: Path) -> bool:
        return True

    @property
    def title(self) -> str:
        return next((each.data.name for each in self.of_backbone.values()), "") or super().title

    @property
    def size(self) -> int:
        return next((len(each.data.split("test")) for each in self.of_backbone.values()), 0)

    @property
    def notes(self) -> list[str]:
        notes = [note for each in self.of_backbone.values() for note in each.notes]
        return list(dict.fromkeys([*notes, *([self.undivided] if self.undivided else [])]))

    def check(self, towers: BenchTowers) -> None:
        assert self.folder is not None
        prepared = towers.read(self.folder)
        test = prepared.data.split("test")
        if not test:
            raise DataError(f"--data {self.folder}: no test images; give some, or data without splits")
        if all(item.class_label() is None for item in test):
            raise DataError(
                f"--data {self.folder}: no test image has a class; give class folders, a table with labels or with "
                "captions (of boxes and masks: vladapt eval)"
            )
        self.of_backbone[towers.backbone.spec] = prepared

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        prepared = self.of_backbone[towers.backbone.spec]
        test, classifier = prepared.test.to("cpu"), prepared.classifier.to("cpu")
        labels, groups = test.labels, test.groups
        assert labels is not None
        towers.skipped += [each for each in prepared.skipped if each not in towers.skipped]
        if labels.ndim == 2:
            return several_labels_scores(classifier.logits(test.unit), labels, prepared.class_names, groups=groups)
        rows = (labels >= 0).nonzero().flatten()
        units = None if groups is None else units_of(groups, len(labels))[0][rows]
        scores = classification_scores(test.unit[rows], classifier.weights, labels[rows], units=units)
        published = published_zero_shot(prepared, towers.backbone.spec)
        if published and all(item.split == "test" for item in prepared.data.items):
            self.undivided = (
                f"{self.title}: the data name no split, so all images are tested; the published result is of the "
                "test images of the set."
            )
        return [score.with_published(published) if score.measure == MEASURE else score for score in scores]


def published_zero_shot(prepared: PreparedData, spec: str) -> dict[str, float]:
    """Source -> zero-shot accuracy of a backbone that is published on a set, under protocols that take the prompts
    which are taken here."""
    published, domain = prepared.data.published, prepared.domain
    if published is None or domain is None:
        return {}
    own, one = list(domain.templates(prepared.task)), domain.one_template(prepared.task)
    accuracies = {}
    for protocol in PROTOCOLS.values():
        prompts = [one] if protocol.one_prompt and one is not None else own
        result = Setting(spec, protocol.name, published, protocol.tasks_of_fit).result(ZERO_SHOT, 0)
        if result is not None and list(prepared.templates) == prompts:
            accuracies[f"{published} under {protocol.name}: {result.source}"] = result.accuracy
    return accuracies
