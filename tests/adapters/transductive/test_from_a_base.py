"""Methods that classify all images together start from what another fitted adapter predicts."""

from __future__ import annotations

import pytest
import torch

from vladapt import Batch
from vladapt.core.contracts.resources import BasePredictions
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter, load_adapter

METHODS = [("stat-a", {}), ("transclip", {"mode": "zero-shot"}), ("transclip", {"gamma": 0.02})]


@pytest.fixture
def task(make_task):
    return make_task(noise=1.6, dim=24)


def base_of(task, name):
    adapter = build_adapter(name)
    adapter.fit(task.support, task.text, val=task.val)
    return adapter


def started(task, name, options, base):
    adapter = build_adapter(name, **options)
    resources = {} if base is None else {"base": BasePredictions(base.name, base.logits(task.test))}
    report = adapter.fit(task.support, task.text, unlabeled=task.test.without_labels(), resources=resources)
    return adapter, report


def asked(adapter, images, base=None):
    return adapter.logits(Batch(features=images.features, base=None if base is None else base.logits(images)))


@pytest.mark.parametrize("name, options", METHODS)
def test_from_zero_shot_it_is_what_it_is_from_the_text(task, name, options):
    base = base_of(task, "zero-shot")
    (plain, _), (other, report) = started(task, name, options, None), started(task, name, options, base)
    torch.testing.assert_close(plain.logits(task.test), other.logits(task.test), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain.logits(task.val), asked(other, task.val, base), atol=1e-4, rtol=1e-4)
    assert "left the class that 'zero-shot' gave" in report.notes[0]


@pytest.mark.parametrize("name, options", METHODS)
def test_from_another_adapter_it_is_another(task, name, options):
    base = base_of(task, "linear-probe")
    (plain, _), (other, _) = started(task, name, options, None), started(task, name, options, base)
    assert not torch.allclose(plain.logits(task.test), other.logits(task.test), atol=0.1)
    assert not torch.allclose(plain.logits(task.val), asked(other, task.val, base), atol=0.1)


@pytest.mark.parametrize("name, options", METHODS)
def test_without_weight_of_the_text_an_update_is_the_same_for_any_base(task, name, options):
    """What the base says of another image comes in by lambda, and by nothing else."""
    base, text = base_of(task, "linear-probe"), base_of(task, "zero-shot")
    for weight, alike in ((0.0, True), (1.0, False)):
        adapter, _ = started(task, name, {**options, "text_weight": weight}, base)
        assert torch.allclose(asked(adapter, task.val, base), asked(adapter, task.val, text), atol=1e-3) == alike


@pytest.mark.parametrize("name, options", METHODS)
def test_other_images_need_its_logits_and_those_of_the_fit_do_not(task, name, options, tmp_path):
    base = base_of(task, "linear-probe")
    adapter, _ = started(task, name, options, base)
    assert adapter.at_predict == {"features", "base"}
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"))
    assert again.at_predict == {"features", "base"} and again.base_ == "linear-probe"
    torch.testing.assert_close(again.logits(task.test), adapter.logits(task.test))
    both = torch.cat([task.test.features, task.val.features])
    logits = torch.cat([base.logits(task.test), base.logits(task.val)])
    torch.testing.assert_close(
        again.logits(Batch(features=both, base=logits)),
        torch.cat([adapter.logits(task.test), asked(adapter, task.val, base)]),
        atol=1e-4,
        rtol=1e-4,
    )
    with pytest.raises(CapabilityError, match=r"predictions of 'linear-probe'.*--resource base=RUN"):
        again.logits(task.val)


@pytest.mark.parametrize("name, options", METHODS)
def test_a_fit_from_the_text_forgets_the_base_of_the_fit_before(task, name, options):
    adapter, _ = started(task, name, options, base_of(task, "linear-probe"))
    adapter.fit(task.support, task.text, unlabeled=task.test.without_labels())
    assert adapter.at_predict == {"features"} and adapter.base_ == ""
    plain, _ = started(task, name, options, None)
    assert torch.equal(adapter.logits(task.val), plain.logits(task.val))
