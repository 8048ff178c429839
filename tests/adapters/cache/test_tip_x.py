"""TIP-X: its formula the plain way, the support folder, and the outputs of the public code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from parity_checks.cache import tip_x as tip_x_parity
from parity_checks.cache import tip_x_inputs

from vladapt.adapters.cache import tip_x
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_adapter

QUICK = {"search_step": (8, 4, 5)}
GIVEN = {"alpha": 2.0, "beta": 5.5, "gamma": 7.0}


def fitted(task, support=None, val=None, text=None, folder=None, **options):
    adapter = build_adapter("tip-x", **options)
    resources = None if folder is None else {"support_folder": folder}
    shots = task.support if support is None else support
    adapter.report = adapter.fit(shots, text or task.text, val=val, resources=resources)
    return adapter


# the formula --------------------------------------------------------------------------------------------------------


def plain_logits(images, keys, values, text, scale, ranges, alpha, beta, gamma, temperature=0.5):
    """Every divergence one by one."""
    spread = lambda x: (x @ text.T / temperature).softmax(dim=-1).double()  # noqa: E731
    image, key = spread(images), spread(keys)
    kl = (image[:, None] * (image[:, None].log() - key[None].log())).sum(dim=-1).float()  # (B, N)
    least, most, low, high = ranges
    phi = -((kl - least) / (most - least) * (high - low) + low)
    cache = torch.exp(-beta * (1 - images @ keys.T)) @ values
    return scale * images @ text.T + scale / 100 * (gamma * phi @ values + alpha * cache), kl


def ends(*numbers):
    return [float(end) for tensor in numbers for end in (tensor.min(), tensor.max())]


@pytest.mark.parametrize("scale", [100.0, 430.0])
def test_logits_are_the_formula(make_task, scale):
    task = make_task(shots=4)
    adapter = fitted(task, text=replace(task.text, logit_scale=scale), val=task.val, **GIVEN)
    keys, values, text = task.support.unit, task.support.one_hot(), task.text.weights
    wanted, _ = plain_logits(task.test.unit, keys, values, text, scale, adapter.ranges, 2.0, 5.5, 7.0)
    torch.testing.assert_close(adapter.logits(task.test), wanted, atol=2e-3 * scale / 100, rtol=1e-5)
    _, kl = plain_logits(task.val.unit, keys, values, text, scale, adapter.ranges, 2.0, 5.5, 7.0)
    cosines = task.val.unit @ keys.T
    assert adapter.ranges == pytest.approx(ends(kl, cosines), abs=1e-5)


def test_without_val_and_shots_to_spare_the_range_is_that_of_different_keys(make_task):
    task = make_task(shots=2)
    adapter = fitted(task, **GIVEN)
    keys = task.support.unit
    apart = ~torch.eye(len(keys), dtype=torch.bool)
    _, kl = plain_logits(keys, keys, task.support.one_hot(), task.text.weights, 100.0, adapter.ranges, 1, 1, 1)
    kl, cosines = kl[apart], (keys @ keys.T)[apart]
    assert adapter.ranges == pytest.approx(ends(kl, cosines), abs=1e-5)


def test_blocks_of_keys_change_nothing(make_task, monkeypatch):
    task = make_task(shots=4)
    wanted = [fitted(task, val=val, **GIVEN).logits(task.test) for val in (task.val, None)]
    monkeypatch.setattr(tip_x, "CHUNK_ELEMENTS", 60)
    found = [fitted(task, val=val, **GIVEN).logits(task.test) for val in (task.val, None)]
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_limits_are_tip_adapter_and_zero_shot(make_task):
    task = make_task(shots=4)
    tip = build_adapter("tip-adapter", alpha=2.0, beta=5.5)
    tip.fit(task.support, task.text)
    torch.testing.assert_close(fitted(task, alpha=2.0, beta=5.5, gamma=0.0).logits(task.test), tip.logits(task.test))
    nothing = fitted(task, alpha=0.0, beta=5.5, gamma=0.0)
    torch.testing.assert_close(nothing.logits(task.test), task.text.logits(task.test.unit))


def test_an_image_is_judged_alone(make_task):
    """The range is kept from the fit: with that of the images at hand, an image's neighbours would change it."""
    task = make_task(shots=4)
    adapter = fitted(task, val=task.val, **GIVEN)
    one_by_one = torch.cat([adapter.logits(row[None]) for row in task.test.features])
    torch.testing.assert_close(one_by_one, adapter.logits(task.test), atol=1e-3, rtol=1e-4)


def test_more_images_of_a_class_do_not_count_against_it(make_task):
    """phi is negative, so a plain sum over keys would: the class with twice the keys would be twice as unlike."""
    task = make_task(classes=3, shots=4)
    twice = task.support.select(list(range(12)) + [0, 1, 2, 3])
    once, more = (fitted(task, support=s, val=task.val, alpha=0.0, beta=1.0, gamma=1.0) for s in (task.support, twice))
    ratio = more._likeness(task.test.unit) / once._likeness(task.test.unit)
    assert ratio.std() < 1e-3
    assert ratio.mean() == pytest.approx(16 / 12, abs=1e-3)


def test_a_class_without_images_is_not_preferred(make_task):
    task = make_task(shots=[4, 0, 4, 4, 4])
    adapter = fitted(task, val=task.val, **GIVEN)
    likeness = adapter._likeness(task.test.unit)
    assert torch.isfinite(likeness).all()
    torch.testing.assert_close(likeness[:, 1], torch.full_like(likeness[:, 1], -4 * adapter.ranges[3]))
    assert not (likeness.argmax(dim=1) == 1).any()


@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1}, {"classes": 2, "shots": 8}, {"classes": 300, "shots": 1, "dim": 8},
        {"shots": [1, 7, 2, 16, 5]}, {"shots": [4, 0, 4, 4, 4]}, {"dim": 3}, {"dim": 512},
    ],
    ids=str,
)  # fmt: skip
def test_hard_shapes(make_task, case):
    task = make_task(**case)
    logits = fitted(task, **QUICK).logits(task.test)
    assert logits.shape == (len(task.test), len(task.text)) and torch.isfinite(logits).all()


def test_one_key_has_no_range(make_task):
    task = make_task(classes=2, shots=1)
    adapter = fitted(task, support=task.support.select([0]), **GIVEN)
    assert adapter.ranges == [0.0, 0.0, 0.0, 0.0] and torch.isfinite(adapter.logits(task.test)).all()


def test_order_of_images_and_classes_does_not_matter(make_task):
    task = make_task(shots=4)
    logits = fitted(task, val=task.val, **GIVEN).logits(task.test)
    shuffled = fitted(task, support=task.support.select(torch.arange(20).flip(0)), val=task.val, **GIVEN)
    torch.testing.assert_close(shuffled.logits(task.test), logits, atol=1e-3, rtol=1e-4)
    order = torch.tensor([3, 1, 4, 0, 2])
    place = order.argsort()
    other = [replace(s, labels=place[s.labels], class_names=()) for s in (task.support, task.val)]
    turned = fitted(task, support=other[0], val=other[1], text=task.text.select(order), **GIVEN).logits(task.test)
    torch.testing.assert_close(turned, logits[:, order], atol=1e-3, rtol=1e-4)


# the support folder -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_folder(make_task):
    """A task of 5 shots, and 3 found images a class that are not among its images."""
    task, other = make_task(shots=5, noise=1.5), make_task(shots=3, noise=1.5)
    return task, replace(other.support, views=None)


def test_the_cache_holds_the_folder_instead_of_the_shots(with_folder):
    task, folder = with_folder
    adapter = fitted(task, folder=folder, val=task.val, **GIVEN)
    alone = fitted(task, support=folder, val=task.val, **GIVEN)
    assert len(adapter.keys) == len(folder)
    torch.testing.assert_close(adapter.logits(task.test), alone.logits(task.test))
    both = fitted(task, folder=folder, val=task.val, use_shots=True, **GIVEN)
    assert len(both.keys) == len(folder) + len(task.support)
    assert "; the shots are not in it" in adapter.report.notes[0] and "and the 25 shots" in both.report.notes[0]


def test_shots_that_are_no_keys_all_choose(with_folder):
    task, folder = with_folder
    chosen_on = lambda **k: fitted(task, folder=folder, **QUICK, **k).report.chosen_on  # noqa: E731
    assert chosen_on() == "the 25 shots, none of them in the cache"
    assert chosen_on(val=task.val) == "val (30 images)"
    assert chosen_on(use_shots=True) == "5 images held out of the support"
    as_val = fitted(task, folder=folder, val=task.support, **QUICK)
    assert as_val.report.chosen == fitted(task, folder=folder, **QUICK).report.chosen


def test_a_folder_that_does_not_fit(with_folder):
    task, folder = with_folder
    with pytest.raises(DataError, match="support folder: each image needs one label"):
        fitted(task, folder=folder.without_labels(), **GIVEN)


# the search ---------------------------------------------------------------------------------------------------------


def test_the_published_grid():
    axes = {axis.name: axis.values for axis in build_adapter("tip-x")._axes()}
    assert list(axes) == ["alpha", "beta", "gamma"] and [len(v) for v in axes.values()] == [20, 200, 50]
    assert [v[0] for v in axes.values()] == pytest.approx([0.1, 1.0, 0.1])
    assert [v[-1] for v in axes.values()] == pytest.approx(
        [19 * 49.9 / 20 + 0.1, 199 * 49 / 200 + 1, 49 * 29.9 / 50 + 0.1]
    )


def test_chosen_on_val_held_out_images_or_nothing(make_task):
    task, few = make_task(shots=8), make_task(shots=3)
    on_val = fitted(task, val=task.val, **QUICK).report
    assert on_val.chosen_on == "val (30 images)" and 0 < on_val.val_score <= 1
    assert fitted(task, **QUICK).report.chosen_on == "10 images held out of the support"
    default = fitted(few, **QUICK).report
    assert default.chosen == {"alpha": 1.17, "beta": 1.0, "gamma": 3.0} and default.val_score is None
    given = fitted(task, val=task.val, **GIVEN).report
    assert given.chosen == GIVEN and given.chosen_on == "given as options"


def test_held_out_images_are_no_keys_while_choosing(make_task, monkeypatch):
    task, seen = make_task(shots=8), []
    original = tip_x.TipX._remember
    monkeypatch.setattr(
        tip_x.TipX, "_remember", lambda self, f, shots: seen.append(len(shots)) or original(self, f, shots)
    )
    assert len(fitted(task, **QUICK).keys) == 40 and seen == [30, 40]


# options, saving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [({"search_scale": (1.0, 50, 30)}, "starts at 1"), ({"search_step": (200, 20)}, "search_step")],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build_adapter("tip-x", **options)


# outputs of the public code, real features --------------------------------------------------------------------------


def test_divergences_logits_and_search_of_the_public_code(agrees):
    agrees(tip_x_parity)


def test_divergences_are_exact(references, parity):
    """Far within the fixture's tolerance: no more than rounding of the largest one."""
    for ref in references(tip_x_parity):
        checks = [check for check in tip_x_parity.run(ref, parity) if check.what.startswith("divergences")]
        assert len(checks) == 2
        assert all(check.error <= 1e-5 * float(ref["kl_test_support"].max()) for check in checks)


def test_the_range_of_val_is_kept_where_the_released_code_takes_that_of_test(references, parity):
    """The released code maps the divergences of the test images, by their own least and largest, to the cosines of val
    (its variable still holds those). Ours keep the range of val for both."""
    for ref in references(tip_x_parity):
        support, val, test = tip_x_inputs(ref, parity)
        adapter = build_adapter("tip-x", temperature=ref.setting("temperature"), **ref.setting("given"))
        adapter.fit(support, parity.text, val=val)
        assert not ref.check(adapter.logits(test), "test_logits_given").share <= 1


@pytest.mark.thorough(but=("ViT",))
@pytest.mark.parametrize("model", ["RN50", "ViTB32"])
def test_real_features(data_dir, model):
    """WHU-RS19: weights from 4 val images a class; more shots are better, and all beat zero-shot."""
    path = data_dir / "features" / "whurs19_clip" / f"whurs19_CLIP_{model}.npz"
    if not path.is_file():
        pytest.skip("the whurs19 features are not there")
    with np.load(path) as stored:
        features, labels = (
            torch.from_numpy(stored["image_features"].astype(np.float32)),
            torch.from_numpy(stored["labels"]),
        )
        text = TextClassifier(torch.from_numpy(stored["text_average"].astype(np.float32)))
    data = FeatureSet(features, labels, raw_norms=False)
    order = torch.randperm(1005, generator=torch.Generator().manual_seed(1))
    rows = [order[labels[order] == label] for label in range(19)]
    val, test = (data.select(torch.cat([r[part] for r in rows])) for part in (slice(16, 20), slice(20, None)))
    right = []
    for shots in (0, 1, 4, 16):
        adapter = build_adapter("tip-x" if shots else "zero-shot")
        adapter.fit(data.select(torch.cat([r[: shots or 1] for r in rows])), text, val=val)
        right.append(float((adapter.logits(test).argmax(dim=-1) == test.labels).double().mean()))
    zero_shot, one, four, sixteen = right
    assert zero_shot + 0.04 < one < four < sixteen and sixteen > zero_shot + 0.12
