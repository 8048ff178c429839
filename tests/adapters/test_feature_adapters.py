"""What all adapters on features have in common: hard shapes, saving, choosing, options, several labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from forked import run
from safetensors.torch import load_file, save_file

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import adapter_class, build_adapter

LEARNING = ("linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t")
ALL = ("zero-shot", *LEARNING)
SEVERAL_LABELS = tuple(name for name in ALL if adapter_class(name).multilabel)
SEARCHING = ("linear-probe", "tip-adapter", "ape")
QUICK = {
    "zero-shot": {}, "linear-probe": {"steps": 2}, "tip-adapter": {"search_step": (8, 4)},
    "tip-adapter-f": {"search_step": (8, 4), "epochs": 3}, "ape": {"search_step": (8, 4, 3)},
    "ape-t": {"search_step": (8, 4), "epochs": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1}, {"classes": 2, "shots": 8}, {"classes": 200, "shots": 1, "dim": 8},
        {"shots": [1, 7, 2, 16, 5]}, {"shots": [4, 0, 4, 4, 4]}, {"dim": 3}, {"dim": 512},
    ],
    ids=str,
)  # fmt: skip
def test_hard_shapes(make_task, name, case):
    """Two classes, one shot, many classes, unequal shots, a class without shots, other widths."""
    task = make_task(**case)
    adapter = build_adapter(name, **QUICK[name])
    report = adapter.fit(task.support, task.text)
    logits = adapter.logits(task.test)
    assert logits.shape == (len(task.test), len(task.text))
    assert torch.isfinite(logits).all()
    assert report.adapter == name and report.to_dict()["chosen_on"]


@pytest.mark.parametrize("name", [n for n in ALL if n != "linear-probe"])
def test_a_thousand_classes(name):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 32, generator=generator)
    options = {**QUICK[name], **({"epochs": 1} if name.endswith(("-f", "-t")) else {})}
    adapter = build_adapter(name, **options)
    adapter.fit(FeatureSet(features, torch.arange(1000)), TextClassifier(features + torch.randn(1000, 32)))
    assert (adapter.logits(features).argmax(dim=-1) == torch.arange(1000)).float().mean() > 0.9


@pytest.fixture(scope="module")
def read_back(make_multilabel_task, tmp_path_factory):
    """Every adapter of several labels an image saved, then loaded in another process: name -> logits here, there."""
    folder, task, kept = tmp_path_factory.mktemp("adapters"), make_multilabel_task(), {}
    save_file({"features": task.test.features}, folder / "features")
    for name in SEVERAL_LABELS:
        adapter = build_adapter(name, **QUICK[name])
        adapter.fit(task.support, task.text, val=task.val)
        adapter.save(folder / f"{name}.safetensors")
        kept[name] = adapter.logits(task.test)
    script = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
from vladapt.core.registry import load_adapter
features = load_file(Path(sys.argv[1]) / "features")["features"]
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    save_file({"logits": load_adapter(path).logits(features)}, path.with_suffix(".logits"))
"""
    run(["-c", script, folder], check=True)
    return {name: (logits, load_file(folder / f"{name}.logits")["logits"]) for name, logits in kept.items()}


@pytest.mark.parametrize("name", SEVERAL_LABELS)
def test_another_process_reads_the_same_logits_of_several_labels(read_back, name):
    here, there = read_back[name]
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_same_seed_same_numbers(make_task, name):
    task, logits = make_task(shots=8, noise=1.5), []
    for _ in range(2):
        adapter = build_adapter(name, **QUICK[name])
        adapter.fit(task.support, task.text, seed=3)
        logits.append(adapter.logits(task.test))
    assert torch.equal(*logits)


@pytest.mark.parametrize("name", ["tip-adapter-f", "ape-t"])
def test_the_seed_orders_the_batches(make_task, name):
    task, logits = make_task(shots=8, noise=1.5), []
    for seed in (0, 1):
        adapter = build_adapter(name, batch_size=4, epochs=2, alpha=1.0, beta=1.0)
        adapter.fit(task.support, task.text, val=task.val, seed=seed)
        logits.append(adapter.logits(task.test))
    assert not torch.equal(*logits)


@pytest.mark.parametrize("name", LEARNING)
def test_what_was_chosen_on_what(make_task, name):
    task, few = make_task(shots=8), make_task(shots=3)
    on_val = build_adapter(name, **QUICK[name]).fit(task.support, task.text, val=task.val)
    assert on_val.chosen_on == "val (30 images)" and 0 < on_val.val_score <= 1
    held = build_adapter(name, **QUICK[name]).fit(task.support, task.text)
    assert held.chosen_on == "10 images held out of the support" and 0 < held.val_score <= 1
    default = build_adapter(name, **QUICK[name]).fit(few.support, few.text)
    assert default.chosen_on.startswith("defaults") and default.val_score is None


def test_defaults_of_sets_without_val_or_shots(make_task):
    task = make_task(shots=2)
    chosen = {name: build_adapter(name).fit(task.support, task.text).chosen for name in LEARNING}
    assert chosen["tip-adapter"] == {"beta": 1.0, "alpha": 1.17}
    assert chosen["tip-adapter-f"] == {"beta": 1.0, "alpha": 1.17, "epoch": 20}
    assert chosen["ape"] == {"beta": 1.0, "alpha": 3.0, "gamma": 0.1}
    assert chosen["ape-t"] == {"beta": 1.0, "alpha": 3.0, "epoch": 30}
    assert chosen["linear-probe"] == {"C": 1.0}


@pytest.mark.parametrize("name", LEARNING)
def test_held_out_images_are_not_learned_from_while_choosing(make_task, monkeypatch, name):
    """Images that are keys of the cache would be found in it, and any sharp setting would look perfect."""
    task = make_task(shots=8)
    ids = tuple(str(i) for i in range(len(task.support)))
    seen = []
    cls = adapter_class(name)
    method = {"linear-probe": "_regress", "tip-adapter": "_remember", "ape": "_remember"}.get(name, "_train")
    original = getattr(cls, method)
    monkeypatch.setattr(
        cls, method, lambda self, support, *a, **k: seen.append(support.ids) or original(self, support, *a, **k)
    )
    build_adapter(name, **QUICK[name]).fit(replace(task.support, ids=ids), task.text)
    assert len(seen[0]) == 30 and seen[-1] == ids


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "ape", "ape-t"])
def test_given_values_are_used_and_not_searched(make_task, name):
    task = make_task(shots=8)
    options = {**QUICK[name], "alpha": 0.77}
    report = build_adapter(name, **options).fit(task.support, task.text, val=task.val)
    assert report.chosen["alpha"] == 0.77 and report.chosen_on.startswith("val")
    given = {"alpha": 0.77, "beta": 3.3, **({"gamma": 0.2} if name == "ape" else {})}
    report = build_adapter(name, **QUICK[name], **given).fit(task.support, task.text, val=task.val)
    assert given.items() <= report.chosen.items()
    trained = name in ("tip-adapter-f", "ape-t")  # their epoch is chosen all the same
    assert report.chosen_on == ("val (30 images)" if trained else "given as options")
    if trained:
        last = build_adapter(name, **QUICK[name], **given, select="last").fit(task.support, task.text, val=task.val)
        assert last.chosen_on == "given as options" and last.val_score is not None


@pytest.mark.parametrize("name", ["zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f"])
def test_several_labels_an_image(make_multilabel_task, name):
    """Unknown labels (NaN) are no obstacle in support or val; the result ranks images of every label."""
    from vladapt.core.metrics.classification import val_score

    task = make_multilabel_task(images=60)
    adapter = build_adapter(name, **QUICK[name])
    report = adapter.fit(task.support, task.text, val=task.val)
    logits = adapter.logits(task.test)
    assert torch.isfinite(logits).all() and logits.shape == task.test.labels.shape
    assert val_score(logits, task.test.labels) > 0.7
    assert adapter.predict(task.test).max() <= 1
    if name != "zero-shot":
        assert report.val_score > 0.7


@pytest.mark.parametrize("name", ["linear-probe", "tip-adapter", "tip-adapter-f"])
def test_several_labels_without_val_hold_out_positives(make_multilabel_task, name):
    task = make_multilabel_task(images=60, negative=False)
    report = build_adapter(name, **QUICK[name]).fit(task.support, task.text)
    assert report.chosen_on.endswith("held out of the support")


SMOOTHED = {"clap": {}, "clip-adapter": {}, "taskres": {}, "tip-adapter-f": {}, "wise-ft": {"freeze_encoder": True}}


@pytest.mark.parametrize("name", [*SMOOTHED, "linear-probe"])
def test_soft_labels_are_learned_by_losses_alone(make_multilabel_task, name):
    task, adapters = make_multilabel_task(negative=False), []
    soft = torch.where(task.support.labels.isnan(), 0.7, task.support.labels)
    for support in (task.support, replace(task.support, soft_labels=soft)):
        adapters.append(build_adapter(name, **({"epochs": 2, **SMOOTHED[name]} if name in SMOOTHED else {})))
        adapters[-1].fit(support, task.text, val=task.val, seed=0)
    one, other = (adapter.logits(task.test) for adapter in adapters)
    assert torch.equal(one, other) == (name not in SMOOTHED)


def test_tip_adapter_f_trains_several_labels_by_binary_cross_entropy(make_multilabel_task):
    task = make_multilabel_task(negative=False)
    adapter = build_adapter("tip-adapter-f", alpha=1.0, beta=1.0, epochs=1, lr=1e-12, batch_size=1000)
    report = adapter.fit(task.support, task.text, val=task.val)
    known = ~torch.isnan(task.support.labels)
    loss = F.binary_cross_entropy_with_logits(adapter.logits(task.support)[known], task.support.labels[known])
    assert report.history[0]["loss"] == pytest.approx(float(loss), rel=1e-4)
