"""How objects of ours are shown: in three lines at most, and with what tells one from another."""

from pathlib import Path

import numpy as np
import pytest

import vladapt
from vladapt import Batch, FeatureSet, Item, Label, TextClassifier
from vladapt.api import DomainData, FitReport, FitResult, Pool, Run, TrainingImages, TrainingSettings
from vladapt.core.contracts.judgement import Evaluated
from vladapt.core.contracts.shown import in_short
from vladapt.core.engine.comparison import Comparison
from vladapt.core.engine.index import Indexed
from vladapt.core.engine.search import SearchResult
from vladapt.core.engine.select import Selected
from vladapt.core.features.files import FeatureFile
from vladapt.core.tasks.classification.predictions import Predictions
from vladapt.core.tasks.classification.predictor import Predictor

ROWS = np.random.default_rng(0).normal(size=(500, 64))
NAMES = tuple(f"class {i}" for i in range(500))
ITEMS = [Item(f"a long name of an image, number {i}", Path(__file__), {}, Label(i)) for i in range(500)]


def fitted():
    adapter = vladapt.build_adapter("ridge")
    adapter.fit(FeatureSet(ROWS, np.arange(500) % 3), TextClassifier(ROWS[:3], class_names=NAMES[:3]))
    return adapter


MADE = {
    "set": lambda: FeatureSet(ROWS, np.arange(500), NAMES, ids=NAMES),
    "texts": lambda: TextClassifier(ROWS, class_names=NAMES),
    "batch": lambda: Batch(ROWS, ids=NAMES),
    "adapter": fitted,
    "adapter of many options": lambda: vladapt.build_adapter("lora", r=4, epochs=3),
    "loss": lambda: vladapt.build_loss("bot", {"embed_dim": 64, "num_labels": 500}),
    "report of a fit": lambda: FitReport("ridge", history=[{"loss": 0.5}] * 500, notes=["a sentence"] * 50),
    "data": lambda: DomainData(ITEMS, NAMES, lambda item: None),
    "images": lambda: TrainingImages(ITEMS, print, print, print, [NAMES], None, list(NAMES), ITEMS),
    "item": lambda: ITEMS[0],
    "recipe": lambda: vladapt.Recipe(domain="medical", shots=4, classes=list(NAMES)),
    "plan": lambda: vladapt.PretrainPlan(data="pairs.json", out="model"),
    "settings": TrainingSettings,
}


@pytest.mark.parametrize("name", MADE)
def test_an_object_is_shown_in_three_lines(name):
    text = repr(MADE[name]())
    assert len(text) <= 3 * 120 and text.count("\n") < 3


@pytest.mark.parametrize(
    "cls",
    [
        FitResult,
        Run,
        Comparison,
        FeatureFile,
        Predictor,
        Predictions,
        SearchResult,
        Selected,
        Indexed,
        Evaluated,
        Pool,
    ],
)
def test_what_holds_whole_results_is_shown_in_short(cls):
    assert cls.__repr__ is in_short


def test_what_differs_from_the_defaults_is_shown():
    assert repr(vladapt.build_adapter("lora", r=4, epochs=3)) == "Lora(epochs=3, class_weight='balanced', r=4)"
    assert repr(Batch(ROWS, ids=NAMES)) == "Batch(features=Tensor (500, 64), ids=tuple of 500)"
