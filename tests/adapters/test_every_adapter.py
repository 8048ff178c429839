"""What every adapter keeps, found by its file name: hard shapes, saving, seeds, order, and words in its docstring."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from forked import run
from safetensors.torch import load_file
from world import World

from vladapt.core.contracts.adapter import NEEDS
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.registry import adapter_class, build_adapter, catalogue, load_adapter

ALL = sorted(catalogue.adapters())
OF_FEATURES = [n for n in ALL if not adapter_class(n).needs & {"pixels", "images", "text_encoder", "pre_projection"}]
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def world(small_clip):
    return World.of(small_clip, classes=3, shots=3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    "classes, shots",
    [(2, 1), (4, [3, 0, 1, 2]), (1000, [1] * 4 + [0] * 996)],
    ids=["two classes, one shot", "unequal shots, a class without", "a thousand classes"],
)
def test_hard_shapes(small_clip, name, classes, shots):
    found = World.of(small_clip, classes, shots, tests=3)
    adapter = found.fit(name, use_val=classes == 4)
    logits = found.logits(adapter)
    assert logits.shape == (3, classes) and torch.isfinite(logits).all()
    assert found.report.adapter == name and found.report.chosen_on


@pytest.fixture(scope="module")
def read_elsewhere(world, small_clip_spec, tmp_path_factory):
    """Every adapter fitted here, then loaded by another process: name -> (logits here, logits there)."""
    folder = tmp_path_factory.mktemp("adapters")
    here = {}
    for name in ALL:
        adapter = world.fit(name)
        here[name] = world.logits(adapter)
        adapter.save(folder / f"{name}.safetensors")
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from safetensors.torch import save_file
from vladapt import load_backbone
from vladapt.core.registry import load_adapter
from world import World
backbone = load_backbone(sys.argv[2], device="cpu")
world = World.of(backbone, classes=3, shots=3)
for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    save_file({"logits": world.logits(load_adapter(path, backbone)).contiguous()}, path.with_suffix(".logits"))
"""
    run(["-c", script, folder, small_clip_spec, HERE], check=True)
    return {name: (logits, load_file(folder / f"{name}.logits")["logits"]) for name, logits in here.items()}


@pytest.mark.parametrize("name", ALL)
def test_fitted_in_one_process_and_predicting_in_another(read_elsewhere, name):
    here, there = read_elsewhere[name]
    torch.testing.assert_close(there, here, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_same_seed_gives_the_same_numbers(world, name):
    torch.manual_seed(0)
    first = world.logits(world.fit(name, seed=3))
    torch.manual_seed(1)  # nobody may draw from the global generator
    assert torch.equal(world.logits(world.fit(name, seed=3)), first)


@pytest.mark.parametrize("name", ALL)
def test_an_image_is_judged_alone(world, name):
    """Whatever else is in the batch; of a transductive method, whatever else is asked once it is fitted."""
    adapter = world.fit(name)
    items = world.items["test"]
    together = world.logits(adapter)
    alone = torch.cat([world.logits(adapter, [item]) for item in items[:3]])
    torch.testing.assert_close(alone, together[:3], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_what_it_says_of_itself(name):
    cls = adapter_class(name)
    assert cls.needs <= NEEDS and cls.optional <= NEEDS and cls.at_predict <= NEEDS
    text = cls.__doc__ + (sys.modules[cls.__module__].__doc__ or "")
    assert re.search(r"arXiv \d{4}\.\d{4,5}", text) or name in ("full",), "name the paper with its arXiv id"


def test_who_trains_says_how_much(world):
    """A cache, a covariance, crops and neighbours train nothing; whoever has a learning rate does."""
    for name in ALL:
        world.fit(name)
        options = build_adapter(name).options
        trains = any(option in options for option in ("lr", "epochs", "C"))
        assert (world.report.trained_parameters > 0) == trains, name


@pytest.mark.parametrize("name", ALL)
def test_a_file_holds_what_state_names_and_no_more(world, name, tmp_path):
    adapter = world.fit(name)
    header, tensors = read_adapter_file(adapter.save(tmp_path / "adapter.safetensors"))
    held = {key.split("/")[0] for key in tensors} | set(header["scalars"]) | set(header["dicts"])
    assert held == set(adapter.state)
    again = load_adapter(tmp_path / "adapter.safetensors", world.backbone)
    assert json.dumps(again.options) == json.dumps(adapter.options)


@pytest.mark.parametrize("name", ALL)
def test_logits_before_a_fit_are_refused(name):
    from vladapt import CapabilityError

    with pytest.raises(CapabilityError, match="not fitted"):
        build_adapter(name).logits(torch.zeros(1, 4))


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_thousand_classes_with_an_image_each(name):
    from vladapt import FeatureSet, TextClassifier

    features = torch.randn(1000, 48, generator=torch.Generator().manual_seed(0))
    text = TextClassifier(features + torch.randn(1000, 48, generator=torch.Generator().manual_seed(1)))
    from world import quick_options

    adapter = build_adapter(name, **quick_options(name, **({"epochs": 1} if "epochs" in quick_options(name) else {})))
    if adapter.needs & {"captions", "further_backbones"}:
        pytest.skip("needs another resource; see test_hard_shapes")
    support = FeatureSet(features, torch.arange(1000))
    adapter.fit(support, text, unlabeled=support.without_labels() if adapter.transductive else None)
    assert torch.isfinite(adapter.logits(features[:50])).all()


@pytest.mark.parametrize("name", [n for n in ALL if adapter_class(n).of_towers])
def test_towers_that_lack_something_are_refused_before_anything_is_fitted(world, name, monkeypatch):
    from vladapt import CapabilityError

    monkeypatch.setattr(world.backbone, "capabilities", frozenset())
    with pytest.raises(CapabilityError, match="towers that have it"):
        build_adapter(name).check_towers(world.backbone)
