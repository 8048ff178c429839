"""Caches and kernels: what each labelled image adds to a logit, exactly."""

from __future__ import annotations

import pytest
import torch

from vladapt import build_adapter, load_adapter
from vladapt.core.contracts.features import Batch, FeatureSet, TextClassifier

NAMES = ("cat", "dog", "owl")
SHOTS, VIEWS, DIM = 3, 2, 12
SMALL = {"search_step": (3, 3)}
METHODS = {
    "tip-adapter": (SMALL, "values"),
    "tip-adapter-f": ({**SMALL, "epochs": 2}, "values"),
    "ape": ({"search_step": (3, 3, 2)}, "values"),
    "ape-t": ({**SMALL, "epochs": 2}, "values"),
    "tip-x": ({"search_step": (3, 3, 3), "gamma": 1.0}, "values"),
    "proker": ({"beta": 1.5, "penalty": 0.1}, "coefficients"),
}


def fitted(name, options, several=False):
    generator = torch.Generator().manual_seed(3)
    features, views = torch.randn(9, DIM, generator=generator), torch.randn(9, VIEWS, DIM, generator=generator)
    labels = torch.arange(9) % 3
    labels = torch.nn.functional.one_hot(labels, 3).float() if several else labels
    texts = TextClassifier(torch.randn(3, DIM, generator=generator), class_names=NAMES)
    adapter = build_adapter(name, **options, **({} if name == "auto" else {"views": VIEWS}))
    adapter.fit(FeatureSet(features, labels, NAMES, views=views, ids=tuple("abcdefghi")), texts)
    return adapter, Batch(features=torch.randn(4, DIM, generator=generator))


@pytest.mark.parametrize("name", METHODS)
def test_without_an_image_the_logit_lacks_its_part(name):
    options, kept = METHODS[name]
    adapter, batch = fitted(name, options)
    classes, before = torch.tensor([0, 1, 2, 0]), adapter.logits(batch)
    parts = adapter.example_parts(batch, classes)
    assert parts.shape[0] == 4 and parts.shape[1] % 9 == 0
    by_image = parts.view(4, 9, -1).sum(dim=2)
    rows, whole = parts.shape[1] // 9, getattr(adapter, kept)
    for image in (0, 4):
        changed = whole.clone()
        changed[rows * image : rows * (image + 1)] = 0
        setattr(adapter, kept, changed)
        lost = (before - adapter.logits(batch)).gather(1, classes[:, None])[:, 0]
        assert torch.allclose(lost, by_image[:, image], atol=2e-4)
    assert by_image[:, (0, 4)].abs().max() > 1e-3
    if name != "tip-x":  # whose signatures have a part of their own
        setattr(adapter, kept, torch.zeros_like(whole))
        lost = (before - adapter.logits(batch)).gather(1, classes[:, None])[:, 0]
        assert torch.allclose(lost, parts.sum(dim=1), atol=2e-4), "all parts together are what the images add"


def test_with_several_labels_images_without_a_label_speak_against_it():
    adapter, batch = fitted("tip-adapter", SMALL, several=True)
    parts = adapter.example_parts(batch, torch.zeros(4, dtype=torch.int64))
    assert (parts[:, ::3] > 0).all() and (parts[:, 1::3] < 0).all()


def test_auto_tells_the_parts_of_the_method_it_took(tmp_path):
    taken, batch = fitted("auto", {"candidates": ("tip-adapter",)})
    classes = torch.tensor([0, 1, 2, 0])
    again = load_adapter(taken.save(tmp_path / "auto.safetensors"))
    assert torch.allclose(again.example_parts(batch, classes), taken.taken.example_parts(batch, classes))
    assert fitted("auto", {"candidates": ("linear-probe",)})[0].example_parts(batch, classes) is None
