"""What CLIP-Adapter, TaskRes and CLAP have in common: shapes, saving, seeds, options, several labels, real data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forked import run
from safetensors.torch import load_file, save_file
from whurs19 import few_shots, whurs19

from vladapt.adapters.head._text_rows import frame_of
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.metrics.classification import val_score
from vladapt.core.registry import adapter_class, build_adapter

NAMES = ("clip-adapter", "taskres", "clap")
CASES = [(name, {}) for name in NAMES] + [
    ("clip-adapter", {"ratio": None}),
    ("clap", {"constraint": "none"}),
    ("clap", {"constraint": "cosine", "adaptive": True}),
    ("clap", {"init": "random"}),
]


def fitted(name, task, *, val=None, seed=0, **options):
    adapter = build_adapter(name, **options)
    adapter.report = adapter.fit(task.support, task.text, val=val, seed=seed)
    return adapter


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1}, {"classes": 2, "shots": 8}, {"classes": 200, "shots": 1, "dim": 8},
        {"shots": [1, 7, 2, 16, 5]}, {"shots": [4, 0, 4, 4, 4]}, {"dim": 3}, {"dim": 512},
    ],
    ids=str,
)  # fmt: skip
def test_hard_shapes(make_task, name, options, case):
    """Two classes, one shot, many classes, unequal shots, a class without shots, other widths."""
    task = make_task(**case)
    adapter = fitted(name, task, epochs=4, **options)
    logits = adapter.logits(task.test)
    assert logits.shape == (len(task.test), len(task.text)) and torch.isfinite(logits).all()
    assert len(adapter.report.history) >= 4 and np.isfinite([h["loss"] for h in adapter.report.history]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_classes(name):
    generator = torch.Generator().manual_seed(0)
    features, noise = torch.randn(2, 1000, 32, generator=generator)
    adapter = build_adapter(name, epochs=2)
    adapter.fit(FeatureSet(features, torch.arange(1000)), TextClassifier(features + 0.5 * noise))
    assert (adapter.logits(features).argmax(dim=-1) == torch.arange(1000)).float().mean() > 0.9


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale, bias", [(430.0, None), (118.0, -12.9), (10.0, None)])
def test_other_scales_and_a_bias(make_task, name, scale, bias):
    """Learning beats the text at scales far from CLIP's; the bias is in the logits and changes no order."""
    task = make_task(shots=8, noise=0.8, text_noise=3.0, dim=64)
    task = replace(task, text=replace(task.text, logit_scale=scale, logit_bias=bias))
    options = {"epochs": 60, **{"clip-adapter": {"lr": 2 / scale}, "taskres": {"lr": 0.02}, "clap": {}}[name]}
    adapter = fitted(name, task, **options)
    zero_shot = float((task.text.logits(task.test.unit).argmax(dim=-1) == task.test.labels).double().mean())
    assert task.accuracy(adapter) > zero_shot + 0.05
    if bias is not None:
        plain = replace(task, text=replace(task.text, logit_bias=None))
        without = fitted(name, plain, **options).logits(task.test)
        torch.testing.assert_close(adapter.logits(task.test), without + bias, atol=0.05, rtol=1e-3)


@pytest.fixture(scope="module")
def read_back(make_task, make_multilabel_task, tmp_path_factory):
    """Every case saved, then loaded in another process: (kind, number) -> logits here, logits there."""
    folder, here = tmp_path_factory.mktemp("heads"), {}
    for kind, task in (("one", make_task(shots=5, views=3)), ("many", make_multilabel_task())):
        save_file({"features": task.test.features}, folder / f"{kind}.features")
        for number, (name, options) in enumerate(CASES):
            adapter = fitted(name, task, val=task.val, epochs=3, **options)
            adapter.save(folder / f"{kind}-{number}.safetensors")
            here[kind, number] = adapter.logits(task.test)
    script = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from vladapt.core.registry import load_adapter
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    features = load_file(path.with_name(path.name.split("-")[0] + ".features"))["features"]
    save_file({"logits": load_adapter(path).logits(features)}, path.with_suffix(".logits"))
"""
    run(["-c", script, folder], check=True)
    return {key: (value, load_file(folder / f"{key[0]}-{key[1]}.logits")["logits"]) for key, value in here.items()}


@pytest.mark.parametrize("number", range(len(CASES)))
@pytest.mark.parametrize("kind", ["one", "many"])
def test_another_process_reads_the_same_logits(read_back, kind, number):
    here, there = read_back[kind, number]
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name, options", CASES)
def test_same_seed_same_numbers_another_seed_others(make_task, name, options):
    task = make_task(shots=8, noise=1.5)
    options = {**options, "epochs": 4, "batch_size": 8, **({"ratio": 0.6} if name == "clip-adapter" else {})}
    first, second, other = (fitted(name, task, seed=seed, **options).logits(task.test) for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.allclose(first, other, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_classes_does_not_matter(make_task, name):
    task = make_task(shots=4)
    swap = torch.tensor([3, 1, 4, 0, 2])
    back = swap.argsort()  # class c is now class back[c]
    turned = replace(task, text=task.text.select(swap), support=replace(task.support, labels=back[task.support.labels]))
    ours, theirs = fitted(name, task, epochs=20), fitted(name, turned, epochs=20)
    torch.testing.assert_close(theirs.logits(task.test), ours.logits(task.test)[:, swap], atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_samples_does_not_matter_in_one_batch(make_task, name):
    task = make_task(shots=4)
    shuffled = replace(
        task, support=task.support.select(torch.randperm(20, generator=torch.Generator().manual_seed(1)))
    )
    ours, theirs = fitted(name, task, epochs=20), fitted(name, shuffled, epochs=20)
    torch.testing.assert_close(theirs.logits(task.test), ours.logits(task.test), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip-adapter", "taskres"])
def test_each_epoch_trains_on_its_own_view(make_task, name):
    """With two epochs, the third of three views is not looked at, and the second is."""
    task, logits = make_task(views=3), []
    for changed in (None, 2, 1):
        views = task.support.views.clone()
        if changed is not None:
            views[:, changed] = views[:, changed].flip(0)
        turned = replace(task, support=replace(task.support, views=views))
        logits.append(fitted(name, turned, lr=0.05, epochs=2).logits(task.test))
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2], atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_notes_say_what_was_trained_on(make_task, name):
    with_views, without = make_task(views=3), make_task()
    assert fitted(name, with_views, epochs=1).report.notes[0] == "trained on 3 augmented views per image"
    assert "without augmented views" in fitted(name, without, epochs=1).report.notes[0]
    assert "views" in adapter_class(name).needs


@pytest.mark.parametrize("negative", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_several_labels_an_image(make_multilabel_task, name, negative):
    """Unknown labels (NaN) are no obstacle; learning ranks images of every label better than the text does."""
    task = make_multilabel_task(images=60, negative=negative)
    adapter = fitted(name, task, val=task.val, lr=0.05, epochs=60)
    logits = adapter.logits(task.test)
    assert (
        torch.isfinite(logits).all() and 0 <= adapter.predict(task.test).min() <= adapter.predict(task.test).max() <= 1
    )
    learned = val_score(logits, task.test.labels)
    assert learned > 0.7 and learned > val_score(task.text.logits(task.test.unit), task.test.labels) + 0.01


@pytest.mark.parametrize("name", NAMES)
def test_several_labels_are_trained_by_binary_cross_entropy(make_multilabel_task, name):
    task = make_multilabel_task(negative=False)
    options = {"constraint": "none"} if name == "clap" else {}
    adapter = fitted(name, task, epochs=1, lr=1e-12, batch_size=1000, **options)
    known = ~torch.isnan(task.support.labels)
    loss = F.binary_cross_entropy_with_logits(adapter.logits(task.support)[known], task.support.labels[known])
    assert adapter.report.history[0]["loss"] == pytest.approx(float(loss), rel=1e-3)


def test_what_logits_are_relative_to(make_task, make_multilabel_task):
    """One label: the bias. Several: negative prompts, else the bias, else the mean zero-shot score of the support."""
    one, several, bare = make_task(), make_multilabel_task(), make_multilabel_task(negative=False)
    frame = frame_of(replace(one.text, logit_bias=-3.0), one.support)
    torch.testing.assert_close(
        frame.logits(one.test.unit, one.text.weights), replace(one.text, logit_bias=-3.0).logits(one.test.unit)
    )
    frame = frame_of(several.text, several.support)
    torch.testing.assert_close(
        frame.logits(several.test.unit, several.text.weights), several.text.logits(several.test.unit)
    )
    scores = bare.text.logits(bare.test.unit)
    frame = frame_of(bare.text, bare.support)
    mean = bare.text.logits(bare.support.unit).mean(dim=0)
    torch.testing.assert_close(frame.logits(bare.test.unit, bare.text.weights), scores - mean, atol=1e-4, rtol=1e-5)
    biased = replace(bare.text, logit_bias=-3.0)
    frame = frame_of(biased, bare.support)
    torch.testing.assert_close(frame.logits(bare.test.unit, bare.text.weights), scores - 3)


@pytest.mark.thorough(but=("taskres", "clap-options3"))
@pytest.mark.parametrize("name, options, gains", [
    ("clip-adapter", {}, (0.3, 2, 8)), ("clip-adapter", {"ratio": None}, (2, 8)), ("taskres", {}, (5, 10, 13)),
    ("clap", {}, (5, 10, 12)), ("clap", {"constraint": "none"}, (5, 10, 13)),
])  # fmt: skip
def test_real_features_gain_with_every_shot(data_dir, name, options, gains):
    """WHU-RS19 with CLIP ViT-B/32: points above zero-shot at 1, 4 and 16 shots, more with each."""
    data, text = whurs19(data_dir, "ViTB32")
    gained = []
    for count in (1, 4, 16)[: len(gains)]:
        support, val, test = few_shots(data, count, seed=1)
        adapter = build_adapter(name, **options)
        adapter.fit(support, text, val=val, seed=1)
        zero_shot = val_score(text.logits(test.unit), test.labels)
        gained.append(100 * (val_score(adapter.logits(test), test.labels) - zero_shot))
    assert (np.array(gained) > gains).all() and (np.diff(gained) > 0).all()
