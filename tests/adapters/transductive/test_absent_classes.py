"""The warning of methods that read all test images together, where few of the classes seem to be among these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from vladapt import Adapter, FitReport
from vladapt.core.contracts import FeatureSet
from vladapt.core.contracts.resources import BasePredictions
from vladapt.core.metrics.presence import presence
from vladapt.core.registry import adapter_class, build_adapter, catalogue

TRANSDUCTIVE = sorted(name for name in catalogue.adapters() if adapter_class(name).transductive)
MODELS = ["CLIP_RN50", "CLIP_ViTB32", "CLIP_ViTL14", "RemoteCLIP_ViTB32"]


def warnings(report) -> list[str]:
    return [note for note in report.notes if "seem to be absent" in note]


@pytest.fixture
def task(make_task):
    return make_task(classes=12, shots=2, dim=64, noise=0.5)


def images_of(task, classes: int) -> FeatureSet:
    return task.test.select((task.test.labels < classes).tolist()).without_labels()


def test_which_methods_are_transductive():
    assert TRANSDUCTIVE == ["dmn", "gta-clip", "onzeta", "reclip", "stat-a", "tda", "transclip", "zlap"]


@pytest.mark.parametrize("name", [name for name in TRANSDUCTIVE if name != "gta-clip"])  # that one trains towers
def test_each_warns_where_few_classes_are_present(task, name):
    adapter = build_adapter(name, **({"train": False} if name == "reclip" else {}))
    (note,) = warnings(adapter.fit(task.support, task.text, unlabeled=images_of(task, 3)))
    assert note.startswith("some of the 12 classes seem to be absent or rare among the 24 unlabelled images")
    assert "predictions spread as over 3 classes of equal size" in note
    cure = "'stat-a' is made for that" if name == "stat-a" else "use stat-a, or give more images of all classes at once"
    assert cure in note
    assert not warnings(adapter.fit(task.support, task.text, unlabeled=images_of(task, 12)))


def test_the_predictions_it_starts_from_are_what_counts(task):
    """A base that finds all classes where the text finds three, and the other way round."""
    few, many = images_of(task, 3), images_of(task, 12)
    spread, narrow = 20 * torch.eye(12)[torch.arange(len(few)) % 12], 20 * torch.eye(12)[torch.arange(len(many)) % 3]
    adapter = build_adapter("stat-a")
    for images, logits, warned in ((few, spread, False), (many, narrow, True)):
        resources = {"base": BasePredictions("other", logits)}
        report = adapter.fit(None, task.text, unlabeled=images, resources=resources)
        assert bool(warnings(report)) == warned


@dataclass(eq=False, kw_only=True)
class OfAPackage(Adapter):
    """A method of another package: it does nothing for the warning."""

    needs: ClassVar = frozenset({"features", "unlabeled"})
    transductive: ClassVar = True
    label_free: ClassVar = True

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        return FitReport(self.name, notes=["its own"])

    def _logits(self, batch):
        raise NotImplementedError


def test_a_method_of_another_package_warns_too(task):
    method = OfAPackage()
    method.name = "theirs"
    own, note = method.fit(None, task.text, unlabeled=images_of(task, 2)).notes
    assert own == "its own" and "'theirs' spreads images over all classes" in note
    assert method.fit(None, task.text, unlabeled=images_of(task, 12)).notes == ["its own"]
    assert method.fit(None, task.text, unlabeled=images_of(task, 0)).notes == ["its own"]  # it takes none


@pytest.mark.parametrize("images", [32, 64, 256])
@pytest.mark.parametrize("model", MODELS)
def test_how_often_it_warns_on_real_features(whurs19, model, images):
    """In 90 % of the batches with 1 to 4 of the 19 classes and more; in 10 % of those with all and less."""
    (data, text), generator, told = whurs19(model), torch.Generator().manual_seed(1), {4: [], 19: []}
    for most, batches in told.items():
        for batch in range(60):
            count = 1 + batch % 4 if most == 4 else 19
            present = torch.randperm(19, generator=generator)[:count]
            pool = torch.isin(data.labels, present).nonzero().flatten()
            rows = pool[torch.randperm(len(pool), generator=generator)[:images]]
            batches.append(presence(text.logits(data.select(rows).unit)).few)
    assert sum(told[4]) >= 0.9 * 60
    assert sum(told[19]) <= 0.1 * 60
