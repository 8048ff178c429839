"""Fast kernels on a GPU, repeatable ones on a CPU and where they are asked for; what a GPU chooses is set by hand."""

from __future__ import annotations

import pytest
import torch

from vladapt import CapabilityError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.training import kernels, optimizer
from vladapt.core.training import train as trainings
from vladapt.core.training.layers import TowerLayers
from vladapt.core.training.optimizer import build_optimizer
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

SETTINGS = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "warmup": 0.0, "weight_decay": 0.1, "seed": 3}
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def weights(backbone):
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def trained(spec, source, folder=None, resume=False, **settings):
    backbone = load_backbone(spec, device="cpu")
    train(
        backbone,
        TrainingTask(source, {"clip": 1.0}),
        TrainingSettings(**{**SETTINGS, **settings}),
        folder,
        resume=resume,
    )
    return weights(backbone)


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def flags():
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.benchmark, torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def fused(monkeypatch):
    """Optimisers as on a GPU."""
    monkeypatch.setattr(optimizer, "is_fast", lambda device: True)


def test_a_gpu_is_repeatable_where_that_is_asked_for():
    plain, asked = TrainingSettings(), TrainingSettings(deterministic=True)
    assert kernels.is_repeatable(plain, CPU) and kernels.is_repeatable(asked, CUDA)
    assert not kernels.is_repeatable(plain, CUDA)
    torch.use_deterministic_algorithms(True)
    try:
        assert kernels.is_repeatable(plain, CUDA)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("repeatable", [True, False])
def test_fast_kernels_are_on_in_steps_alone(fresh_clip, toy_pairs, monkeypatch, repeatable):
    monkeypatch.setattr(trainings, "is_repeatable", lambda settings, device: repeatable)
    before, in_steps, on_val = flags(), [], []
    task = TrainingTask(toy_pairs(), {"clip": 1.0}, validate=lambda: on_val.append(flags()) or 0.0)
    train(fresh_clip, task, TrainingSettings(**SETTINGS), None, on_step=lambda *step: in_steps.append(flags()))
    assert set(in_steps) == {("highest", False, True) if repeatable else ("high", True, False)}
    assert set(on_val) == {("highest", False, repeatable)}
    assert flags() == before == ("highest", False, False)


def test_fast_kernels_end_with_a_step_that_fails(fresh_clip, toy_pairs, monkeypatch):
    monkeypatch.setattr(trainings, "is_repeatable", lambda settings, device: False)

    def fail(*step):
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        train(fresh_clip, TrainingTask(toy_pairs(), {"clip": 1.0}), TrainingSettings(**SETTINGS), None, on_step=fail)
    assert flags() == ("highest", False, False)


def test_what_cannot_be_deterministic_is_named(fresh_clip):
    TowerLayers(fresh_clip).set_trainable()
    assert kernels.not_deterministic(fresh_clip, {"image_features"}) == []
    (sentence,) = kernels.not_deterministic(fresh_clip, {"image_features", "hidden_local"})
    assert "local crops" in sentence and "bicubic" in sentence and "all else is deterministic" in sentence
    TowerLayers(fresh_clip).set_trainable(lock="image")
    assert kernels.not_deterministic(fresh_clip, {"hidden_local"}) == []


def test_it_is_told_before_the_training(fresh_clip, toy_pairs, monkeypatch):
    from vladapt.core.training.model import PairModel

    original = PairModel.__init__

    def on_a_gpu(self, *arguments, **further):
        original(self, *arguments, **further)
        self.not_deterministic = kernels.not_deterministic(self.backbone, self.outputs.wanted)

    monkeypatch.setattr(PairModel, "__init__", on_a_gpu)
    told = []
    small = {"silc": {"out_dim": 16, "hidden_dim": 8, "bottleneck_dim": 4}}
    task, settings = TrainingTask(toy_pairs(), {"silc": 1.0}, small), TrainingSettings(**{**SETTINGS, "epochs": 1})
    hear = {"on_step": lambda *step: told.append("step"), "on_message": told.append}
    done = train(fresh_clip, task, settings, None, **hear)
    assert "local crops" in told[0] and set(told[1:]) == {"step"}
    assert told[0] in done.notes


def test_a_kernel_that_torch_refuses_is_named():
    torch.use_deterministic_algorithms(True)
    try:
        refused = pytest.raises(CapabilityError, match=r"deterministic=yes: torch has no deterministic put_; omit it")
        with refused, kernels.named_kernels():
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    with pytest.raises(RuntimeError, match="something else"), kernels.named_kernels():
        raise RuntimeError("something else")


def test_a_cpu_keeps_its_optimisers(fresh_clip):
    TowerLayers(fresh_clip).set_trainable()
    for name in ("adamw", "sgd"):
        assert not build_optimizer(fresh_clip, [], TrainingSettings(optimizer=name)).fused
    assert optimizer.is_fast(CUDA) and not optimizer.is_fast(CPU)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("more", [{}, {"clip_grad": 1e-2}, {"amp": "fp16"}], ids=str)
def test_a_fused_optimiser_learns_the_same(small_clip_spec, toy_pairs, request, name, more):
    settings = {"optimizer": name, "lr": 1e-4 if name == "adamw" else 1e-2, **more}
    plain = trained(small_clip_spec, toy_pairs(), **settings)
    request.getfixturevalue("fused")
    assert distance(plain, trained(small_clip_spec, toy_pairs(), **settings)) < 1e-5


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_training_goes_on_with_the_other_kernels(small_clip_spec, toy_pairs, tmp_path, request, name):
    """A checkpoint of a CPU serves a GPU."""
    settings = {"optimizer": name, "lr": 1e-4, "schedule": "constant"}
    whole = trained(small_clip_spec, toy_pairs(), **settings)
    trained(small_clip_spec, toy_pairs(), tmp_path, **settings)
    for path in (tmp_path / "checkpoints").glob("step-00000006*"):
        path.unlink()
    request.getfixturevalue("fused")
    assert distance(whole, trained(small_clip_spec, toy_pairs(), tmp_path, resume=True, **settings)) < 1e-5


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("is_fused", [True, False])
def test_a_step_that_is_not_finite_changes_no_weight(fresh_clip, request, name, is_fused):
    if is_fused:
        request.getfixturevalue("fused")
    TowerLayers(fresh_clip).set_trainable()
    made = build_optimizer(fresh_clip, [], TrainingSettings(optimizer=name, lr=0.1))
    before = weights(fresh_clip)
    for usable in (False, True):
        for parameter in fresh_clip.model.parameters():
            parameter.grad = torch.full_like(parameter, 1.0 if usable else torch.nan)
        norm = made.gradient_norm()
        made.step(norm.isfinite())
        assert (distance(before, weights(fresh_clip)) > 0) == usable
    assert all(value.isfinite().all() for value in weights(fresh_clip).values())


def test_the_gradient_is_clipped_as_torch_clips_it(fresh_clip):
    TowerLayers(fresh_clip).set_trainable()
    made = build_optimizer(fresh_clip, [], TrainingSettings(clip_grad=0.5))
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(parameter.shape, generator=generator) for parameter in fresh_clip.model.parameters()]
    for parameter, gradient in zip(fresh_clip.model.parameters(), gradients):
        parameter.grad = gradient.clone()
    norm = made.gradient_norm()
    expected = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(expected, gradients):
        parameter.grad = gradient
    assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(expected, 0.5, foreach=True), rtol=1e-4)
    for parameter, other in zip(fresh_clip.model.parameters(), expected):
        assert torch.allclose(parameter.grad, other.grad, rtol=1e-4, atol=1e-9)


def test_convolutions_lie_channels_last_while_they_are_trained(open_clip_resnet, toy_pairs, tmp_path, monkeypatch):
    seen = []

    def trained(suits):
        monkeypatch.setattr(trainings, "suits_channels_last", lambda backbone, settings: suits)
        backbone = load_backbone(open_clip_resnet, device="cpu")
        weight = backbone.model.visual.layer1[0].conv2.weight

        def note(*_):
            seen.append(weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous())

        settings = TrainingSettings(epochs=1, batch_size=8, lr=1e-3, optimizer="sgd", warmup=0.0)
        train(backbone, TrainingTask(toy_pairs(16), {"clip": 1.0}), settings, tmp_path / str(suits), on_step=note)
        assert all(p.is_contiguous() for p in backbone.model.parameters())
        return backbone.model.state_dict()

    usual, turned = trained(False), trained(True)
    assert seen == [False, False, True, True]
    assert all(torch.allclose(value, turned[name], atol=1e-5) for name, value in usual.items())


def test_channels_last_is_for_convolutional_towers_on_a_gpu(fresh_clip, open_clip_resnet, monkeypatch):
    resnet = load_backbone(open_clip_resnet, device="cpu")
    assert not kernels.suits_channels_last(resnet, TrainingSettings())
    for backbone in (resnet, fresh_clip):
        monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    assert kernels.suits_channels_last(resnet, TrainingSettings())
    assert not kernels.suits_channels_last(fresh_clip, TrainingSettings())
    assert kernels.suits_channels_last(resnet, TrainingSettings(parallel="fsdp"))
    monkeypatch.setattr(kernels, "world_size", lambda: 2)
    assert not kernels.suits_channels_last(resnet, TrainingSettings(parallel="fsdp"))
