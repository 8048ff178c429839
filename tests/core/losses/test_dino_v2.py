"""DINOv2's loss: its terms by the reference, its crops and masks by their properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.self_supervised import dino_v2, dino_v2_masks, dino_v2_schedules, small_loss

from vladapt import ConfigError, build_loss
from vladapt.core.losses._crops import block_mask, hidden_places, masked_crops, most_hidden_patches
from vladapt.core.losses.dino_v2 import koleo, mask_weights, sinkhorn
from vladapt.core.registry import loss_class
from vladapt.core.testing.loss_steps import example_outputs, steps_of
from vladapt.core.testing.thread_ranks import as_ranks
from vladapt.core.training.settings import TrainingSettings

DIMS = {"image_width": 6}
SMALL = {"out_dim": 9, "hidden_dim": 7, "bottleneck_dim": 4}


def outputs(seed=0, batch=5, local=3, places=6):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    hidden = torch.arange(places)[None] < torch.tensor([6, 2, 0, 3, 1])[:batch, None]
    return {
        "crops": draw(batch, 2, 6),
        "crops_local": draw(batch, local, 6),
        "crops_patches": draw(batch, places, 6),
        "crops_hidden": hidden,
        "teacher.crops": draw(batch, 2, 6),
        "teacher.crops_patches": draw(batch, places, 6),
    }


def small(seed=0, **options):
    torch.manual_seed(seed)
    return build_loss("dino-v2", DIMS, **{**SMALL, **options})


@pytest.mark.parametrize("group", [dino_v2, dino_v2_schedules, dino_v2_masks], ids=["terms", "schedules", "weights"])
def test_agrees_with_the_reference(agrees, group):
    agrees(group)


def test_published_settings():
    loss = small_loss()
    assert (loss.momentum, loss.final_momentum, loss.koleo, loss.local_crops) == (0.992, 1.0, 0.1, 8)
    assert loss.global_scale == (0.32, 1.0) and loss.local_scale == (0.05, 0.32) and loss.mask_share == (0.1, 0.5)
    assert loss.temperature(0) == 0.04 and loss.temperature(0.3) == pytest.approx(0.07) == loss.temperature(1)


@pytest.mark.parametrize("term", ["dino", "ibot", "koleo"])
def test_each_term_counts_and_can_be_left_out(term):
    whole, without = small(), small(**{term: 0.0})
    out = outputs()
    values, less = whole(out, 0.5), without(out, 0.5)
    left_out = {name for name in values if name not in less}
    assert left_out == ({"dino_global", "dino_local"} if term == "dino" else {term})
    assert float((values["loss"] - less["loss"]).detach()) == pytest.approx(
        getattr(whole, term) * float(sum(values[name].detach() for name in left_out)), rel=1e-4
    )
    assert ("crops_patches" in without.needs) == (term != "ibot")


@pytest.mark.parametrize(
    "changed",
    [
        {"balance": "sinkhorn"},
        {"first_temperature": 0.01, "temperature_rise": 1.0},
        {"teacher_temperature": 0.2},
        {"temperature_rise": 1.0},
        {"student_temperature": 0.2},
        {"separate_heads": True},
        {"masked": 1.0},
        {"koleo": 1.0},
    ],
    ids=str,
)
def test_each_option_changes_the_value(changed):
    usual, other = (small(**options)(outputs(), 0.5)["loss"] for options in ({}, changed))
    assert not torch.allclose(usual, other, atol=1e-5)


def test_options_of_what_moves():
    out = outputs()
    for options, name in (({"momentum": 0.5}, "teacher_heads"), ({"centre_momentum": 0.1}, "centre")):
        moved = []
        for given_options in ({}, options):
            loss = small(**given_options)
            with torch.no_grad():
                for parameter in loss.heads.parameters():
                    parameter.add_(0.1)
            loss(out, 0.2)
            loss.after_step(None)
            moved.append({key: value.clone() for key, value in loss.state_dict().items() if key.startswith(name)})
        assert any(not torch.allclose(value, moved[1][key]) for key, value in moved[0].items())
    assert small(final_momentum=0.992).teacher_momentum(1.0) == pytest.approx(0.992)


def test_the_end_of_weight_decay_needs_a_start():
    with pytest.raises(ConfigError, match="end_weight_decay"):
        TrainingSettings(weight_decay=0.0, end_weight_decay=0.4)


def test_prototypes_wait_and_then_learn():
    gradients = []
    for progress in (0.0, 0.5):
        loss = small()
        loss(outputs(), progress)["loss"].backward()
        assert loss.heads[0].mlp[0].weight.grad.abs().max() > 0
        gradients.append(float(loss.heads[0].prototypes.grad.abs().max()))
    assert gradients[0] == 0 < gradients[1]
    loss = small(fixed_prototypes=0.0)
    loss(outputs(), 0.0)["loss"].backward()
    assert loss.heads[0].prototypes.grad.abs().max() > 0


def test_patches_that_are_not_hidden_have_no_say():
    out = outputs()
    other = {**out, "crops_patches": torch.where(out["crops_hidden"][..., None], out["crops_patches"], 7.0)}
    other["teacher.crops_patches"] = torch.where(out["crops_hidden"][..., None], out["teacher.crops_patches"], -3.0)
    for balance in ("centering", "sinkhorn"):
        torch.testing.assert_close(small(balance=balance)(other, 0.5)["ibot"], small(balance=balance)(out, 0.5)["ibot"])
    nothing = {**out, "crops_hidden": torch.zeros_like(out["crops_hidden"])}
    for balance in ("centering", "sinkhorn"):
        loss = small(balance=balance)
        assert float(loss(nothing, 0.5)["ibot"].detach()) == 0
        loss.after_step(None)
        assert torch.equal(loss.patch_centre, torch.zeros(9))


@settings(max_examples=20)
@given(rows=st.integers(2, 12), prototypes=st.integers(2, 9), left_out=st.integers(0, 1), seed=st.integers(0, 99))
def test_sinkhorn_gives_rows_of_one_and_prototypes_alike(rows, prototypes, left_out, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, prototypes, generator=generator)
    valid = torch.arange(rows) >= left_out
    assigned = sinkhorn(scores, valid)
    assert torch.allclose(assigned.sum(dim=1), valid.float(), atol=1e-5)
    assert torch.allclose(assigned[valid], sinkhorn(scores[valid]), atol=1e-5)
    assert torch.allclose(assigned, sinkhorn(scores + 3.0, valid), atol=1e-5)
    before = scores.softmax(dim=1)[valid].sum(dim=0)
    even = int(valid.sum()) / prototypes
    assert (assigned.sum(dim=0) - even).abs().max() <= (before - even).abs().max() + 1e-4


def test_koleo_grows_as_images_come_together():
    one, two = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.0]])
    assert float(koleo(one)) == pytest.approx(-math.log(math.sqrt(2)), abs=1e-5)
    assert float(koleo(two)) > float(koleo(one))
    assert float(koleo(torch.ones(3, 4))) == pytest.approx(-math.log(3e-8), abs=1.0)  # copies: large, and finite


@settings(max_examples=25)
@given(
    grid=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    share=st.tuples(st.floats(0.05, 0.5), st.floats(0.5, 0.9)),
    probability=st.floats(0.05, 1.0),
    seed=st.integers(0, 999),
)
def test_hidden_places_are_as_many_as_asked_at_most(grid, share, probability, seed):
    patches = grid[0] * grid[1]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        places = hidden_places(grid, share, probability)
    assert places.shape == (masked_crops(probability), most_hidden_patches(patches, share))
    assert places.min() >= -1 and places.max() < 2 * patches
    for row in places:
        taken = row[row >= 0]
        assert len(taken) <= int(patches * share[1]) and len(taken.unique()) == len(taken)
        assert len((taken // patches).unique()) <= 1


def test_half_of_the_crops_are_masked_and_shares_spread():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        drawn = [hidden_places((14, 14), (0.1, 0.5), 0.5) for _ in range(200)]
    counts = torch.tensor([int((places >= 0).sum()) for places in drawn]) / 196
    assert 0.24 < float(counts.mean()) < 0.34 and counts.min() < 0.15 and 0.4 < counts.max() <= 0.5
    crops = torch.stack([places[0, 0] // 196 for places in drawn])
    assert 0.35 < float(crops.float().mean()) < 0.65


def test_blocks_are_rectangles():
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        mask = block_mask((12, 12), 8)
        assert block_mask((12, 12), 0).sum() == 0
    assert 4 <= int(mask.sum()) <= 8
    alone = mask.float() * 4 - torch.nn.functional.conv2d(mask[None, None].float(), _cross(), padding=1)[0, 0]
    assert float(alone[mask].mean()) < 3  # most hidden patches have hidden neighbours


def _cross():
    return torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None]


def test_weights_are_one_over_the_hidden_patches_of_a_crop():
    hidden = torch.tensor([[True, True, False, False, True, False], [False] * 6])
    assert torch.equal(mask_weights(hidden, 2), torch.tensor([[0.5, 0.5, 0, 0, 1, 0], [0.0] * 6]))


def test_what_cannot_be_is_said():
    with pytest.raises(ConfigError, match=r"local_scale=0\.5,0\.1: give the smaller share first"):
        small(local_scale=(0.5, 0.1))
    with pytest.raises(ConfigError, match="hue is shifted by at most"):
        small(jitter=(0.4, 0.4, 0.2, 0.9))


@pytest.mark.parametrize("options", [{"balance": "sinkhorn"}, {"separate_heads": True, "masked": 1.0}], ids=str)
def test_ranks_together_give_what_one_process_gives(options):
    """Sinkhorn's sums, centres and nearest images go over all of them."""
    cls, given_options = loss_class("dino-v2"), {**SMALL, **options}
    batches = [example_outputs(cls.needs, seed, cls.outputs, B=6, L=8) for seed in (1, 2)]
    job = {"options": given_options, "batches": batches}
    one = steps_of(cls, job, 0, 1)
    for size in (2, 3):
        ranks = as_ranks(size, lambda rank, size=size: steps_of(cls, job, rank, size))
        for step, whole in enumerate(one["steps"]):
            torch.testing.assert_close(ranks[0]["steps"][step]["loss"], whole["loss"], rtol=1e-5, atol=1e-5)
            for name, gradient in whole["outputs"].items():
                parts = torch.cat([rank["steps"][step]["outputs"][name] for rank in ranks])
                torch.testing.assert_close(parts, gradient, rtol=1e-4, atol=1e-5)
        for name, buffer in one["buffers"].items():
            torch.testing.assert_close(ranks[0]["buffers"][name], buffer, rtol=1e-5, atol=1e-6)
