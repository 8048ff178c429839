"""The network of numbers per pixel: what counts in its loss, its parts, and the windows that it learns from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vladapt import load_domain
from vladapt.core.contracts import DomainData
from vladapt.core.errors import ConfigError, DataError

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

from vladapt.core.backbones import load_backbone
from vladapt.domains.remote_sensing.drawn_heights import write_sites
from vladapt.domains.remote_sensing.number_maps import drawn_windows, make_number_plan, number_plan_facts
from vladapt.domains.remote_sensing.pixel_options import PixelOptions, PixelSchedule
from vladapt.registry import DATASETS, MODELS

ASKED = PixelSchedule("embedded", 2, None, None, None, 1, 0)


@pytest.fixture(scope="module")
def sites(tmp_path_factory) -> DomainData:
    """Eight training sites of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("sites")
    write_sites(folder, range(8), 32)
    data = load_domain("remote-sensing").read(folder, "pixel-regression")
    return data.with_items([item.with_(split="train") for item in data.items])


@pytest.fixture(scope="module")
def embedded():
    return load_backbone("embedded", device="cpu")


@pytest.fixture(scope="module")
def planned(sites, embedded):
    return lambda schedule=ASKED, changes=None, **options: make_number_plan(
        schedule, PixelOptions(**{"encoder": "unet", "width": 8, **options}), sites, embedded, changes or {}
    )


def built(plan, seed=0):
    from mmengine.registry import init_default_scope

    MODELS.get("vladapt.PixelRegressor")
    init_default_scope(plan.default_scope)
    torch.manual_seed(seed)
    return MODELS.build(plan.model.to_dict())


@pytest.fixture(scope="module")
def network(planned):
    return built(planned()).eval()


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 24, 40, generator=random), 30 * torch.rand(2, 24, 40, generator=random)


def test_pixels_without_a_number_change_neither_loss_nor_gradients(network):
    inputs, target = batch()
    valid = torch.ones(2, 24, 40, dtype=torch.bool)
    valid[:, :8] = False
    losses, gradients = [], []
    for filler in (0.0, -9999.0, torch.nan):
        changed = torch.where(valid, target, filler)
        network.zero_grad()
        losses.append(network(inputs, changed, valid, mode="loss")["loss"])
        losses[-1].backward()
        gradients.append(network.decode_head.conv_seg.weight.grad.clone())
    assert losses[0] == losses[1] == losses[2] and losses[0].isfinite()
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])
    assert network(inputs, target, torch.zeros_like(valid), mode="loss")["loss"] == 0


@pytest.mark.parametrize("kind", ["mse", "huber", "l1"])
def test_the_loss_is_of_standard_deviations_of_the_training_targets(kind, network):
    from vladapt.domains.remote_sensing.modules.segmentors.pixel_regressor import LOSSES

    inputs, target = batch()
    valid = target > 10
    numbers, _ = network(inputs)
    errors = ((numbers - target) / network.target_std)[valid].double()
    by_hand = {"mse": errors**2, "l1": errors.abs()}
    by_hand["huber"] = torch.where(errors.abs() < 1, errors**2 / 2, errors.abs() - 0.5)
    before, network.loss = network.loss, LOSSES[kind]
    loss = network(inputs, target, valid, mode="loss")["loss"].item()
    network.loss = before
    assert loss == pytest.approx(by_hand[kind].mean().item(), rel=1e-4)


def test_a_predicted_scale_learns_the_error_and_leaves_the_numbers(planned):
    scaled = built(planned(interval_width="pixel"))
    inputs, target = batch()
    valid = torch.ones(2, 24, 40, dtype=torch.bool)
    scaled(inputs, target, valid, mode="loss")["loss_scale"].backward()
    gradient = scaled.decode_head.conv_seg.weight.grad
    assert gradient[1].abs().sum() > 0 and gradient[0].abs().sum() == 0  # the error is held fixed
    scales = scaled.eval()(inputs)[1]
    assert (scales > 0).all() and scales.std() > 0 and len(planned().model.decode_head.to_dict()) > 3


@pytest.mark.parametrize(
    "options",
    [
        {"encoder": "tower", "tuned": "frozen", "decoder": "linear", "width": None},
        {"encoder": "tower"},
        {"encoder": "resnet18", "decoder": "upernet"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_encoders_and_heads_give_a_number_for_each_pixel(options, planned):
    model = built(planned(**options))
    numbers, scales = model.eval()(batch()[0])
    assert numbers.shape == scales.shape == (2, 24, 40) and numbers.std() > 0
    trains = {name.partition(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert ("backbone" in trains) == (options.get("tuned") != "frozen") and "decode_head" in trains


def test_a_transformer_is_an_encoder_too_and_lora_trains_little_of_it(sites, small_clip_spec):
    pytest.importorskip("peft")
    tower, counts = load_backbone(small_clip_spec, device="cpu"), {}
    for tuned in ("lora", "full"):
        plan = make_number_plan(
            PixelSchedule(small_clip_spec, 2, None, None, None, 1, 0),
            PixelOptions(tuned=tuned, width=8),
            sites,
            tower,
            {},
        )
        model = built(plan)
        counts[tuned] = sum(weight.numel() for weight in model.backbone.tower.parameters() if weight.requires_grad)
        assert model.eval()(batch()[0])[0].shape == (2, 24, 40)
    assert 0 < counts["lora"] < counts["full"] / 10


def test_options_of_the_training_are_in_the_plan(planned, sites):
    plain = planned(steps=10)
    assert plain.train_cfg.max_iters == 10 and plain.train_dataloader.dataset.draws == 20
    assert planned(PixelSchedule("embedded", 4, "bf16", 3, 0.5, 2, 0)).train_cfg.max_iters == 3 * 2
    assert planned().train_cfg.max_iters == 400
    other = planned(
        PixelSchedule("embedded", 4, "bf16", None, 0.5, 2, 0), augment="none", target_unit="ft", interval=0.8
    )
    assert other.optim_wrapper.type == "AmpOptimWrapper" and other.optim_wrapper.optimizer.lr == 0.5
    assert not other.train_dataloader.dataset.turned and other.vladapt.unit == "ft" and other.vladapt.coverage == 0.8
    assert plain.vladapt.unit == "m" and plain.vladapt.target == "canopy height"
    assert planned(changes={"model": {"decode_head": {"channels": 12}}}).model.decode_head.channels == 12
    facts = number_plan_facts(ASKED, PixelOptions(), sites)
    numbers = np.concatenate([values[there] for values, there in (item.target.read() for item in sites.items)])
    assert facts["target_mean"] == pytest.approx(numbers.mean(), rel=1e-4)
    assert plain.model.target_std == pytest.approx(numbers.std(), rel=1e-4)


def test_options_that_do_not_fit_are_refused():
    for options, words in (
        ({"encoder": "resnet18", "tuned": "frozen"}, "starts from scratch"),
        ({"encoder": "unet", "decoder": "linear"}, "a decoder of its own"),
        ({"encoder": "tower", "rank": 8}, "--rank 8: is for --tuned lora"),
        ({"encoder": "tower", "decoder": "linear", "width": 8}, "--width 8: the linear head"),
    ):
        with pytest.raises(ConfigError, match=words):
            PixelOptions(**options)


def test_targets_that_do_not_differ_are_refused(sites, embedded):
    from dataclasses import replace

    flat = [
        item.with_(target=replace(item.target, total=5.0 * item.target.count, squares=25.0 * item.target.count))
        for item in sites.items
    ]
    with pytest.raises(DataError, match="all training pixels have the number 5"):
        make_number_plan(ASKED, PixelOptions(), sites.with_items(flat), embedded, {})


def test_windows_are_a_function_of_seed_and_number_and_turn_with_their_targets(planned):
    plan = planned()
    windows = DATASETS.build(plan.train_dataloader.dataset.to_dict())
    plain = DATASETS.build({**plan.train_dataloader.dataset.to_dict(), "turned": False})
    order = [windows.place(number) for number in range(16)]
    assert sorted(order[:8]) == sorted(order[8:]) == list(range(8)) and order[:8] != order[8:]
    turned = 0
    for number in range(6):
        one, other, again = windows[number], plain[number], windows[number]
        assert torch.equal(one["inputs"], again["inputs"]) and one["inputs"].shape == (3, 32, 32)
        stacked, straight = (
            torch.cat([w["inputs"], w["target"][None], w["valid"][None].float()]) for w in (one, other)
        )
        ways = [torch.rot90(straight, k, (1, 2)) for k in range(4)]
        ways += [way.flip(2) for way in ways]
        assert sum(torch.equal(stacked, way) for way in ways) == 1
        turned += not torch.equal(stacked, straight)
    assert turned > 2


def test_shots_are_of_five_bins(sites):
    ordered = sorted(sites.items, key=lambda item: item.target.mean)
    drawn = drawn_windows(sites.items, 1, seed=3)
    bins = np.array_split(np.arange(8), 5)
    assert [sum(ordered[place] in drawn for place in part) for part in bins] == [1] * 5
    assert drawn == drawn_windows(sites.items[::-1], 1, seed=3)
    assert len({tuple(item.id for item in drawn_windows(sites.items, 1, seed)) for seed in range(5)}) > 1
    assert len(drawn_windows(sites.items, 9, seed=3)) == 8
