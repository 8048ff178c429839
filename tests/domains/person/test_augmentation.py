"""Samplers and random erasing against the released code's draws, and what training pixels of people look like."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import re_identification

from vladapt.core.errors import ConfigError, DataError
from vladapt.core.training.batches import PlannedBatches
from vladapt.domains.person.pedestrian import NOBODY
from vladapt.domains.person.random_erasing import RandomErasing
from vladapt.domains.person.samplers import SAMPLERS, IdentityBatches, balanced
from vladapt.domains.person.transforms import PedestrianTransform

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.mark.parametrize("comparison", [re_identification.samplers, re_identification.erasing])
def test_draws_are_those_of_the_released_code(agrees, comparison):
    agrees(comparison)


people = st.lists(st.integers(NOBODY, 5), min_size=6, max_size=40).filter(lambda rows: len({*rows} - {NOBODY}) > 2)


@settings(max_examples=10, deadline=None)
@given(people, st.integers(2, 3), st.integers(2, 4), st.sampled_from(sorted(SAMPLERS)), st.integers(0, 9))
def test_each_batch_has_p_identities_with_k_pictures(identities, count, pictures, sampler, seed):
    cameras = [str(n % 2) for n in range(len(identities))]
    plan = IdentityBatches(identities, cameras, count, pictures, sampler, seed)
    sizes = Counter(identities)
    assert plan.steps > 0 and plan.batch_size == count * pictures
    for epoch in (0, 1):
        batches = plan.rows(epoch)
        assert len(batches) == plan.steps and batches == plan.rows(epoch)
        for batch in batches:
            groups = [batch[i : i + pictures] for i in range(0, len(batch), pictures)]
            named = [{identities[row] for row in group} for group in groups]
            assert len(groups) == count and all(len(each) == 1 for each in named)
            assert len(set().union(*named)) == count and NOBODY not in set().union(*named)
            for group in groups:
                if sampler != "balanced" and sizes[identities[group[0]]] >= pictures:
                    assert len(set(group)) == pictures  # repeats only where there are fewer


def test_balanced_takes_other_cameras_where_there_are_any():
    identities, cameras = [0] * 6 + [1] * 4, [*"aaabbc", *"zzzz"]
    for first, *others in islice(balanced(identities, cameras, 1, 3, seed=4), 20):
        same = [cameras[row] == cameras[first] for row in others]
        assert not any(same) if identities[first] == 0 else (all(same) and first not in others)


def test_ranks_share_the_batches_of_one_process(monkeypatch):
    identities = [n % 6 for n in range(48)]
    plan = IdentityBatches(identities, [""] * 48, 4, 4, seed=3)

    def batches(place, size):
        monkeypatch.setattr("vladapt.core.training.batches.rank", lambda: place)
        monkeypatch.setattr("vladapt.core.training.batches.world_size", lambda: size)
        planned = PlannedBatches(48, plan, seed=3)
        planned.epoch = 2
        return list(planned)

    alone, shared = batches(0, 1), [batches(place, 2) for place in range(2)]
    assert len(alone) == plan.steps and [left + right for left, right in zip(*shared)] == alone
    assert alone == [[(2, row) for row in rows] for rows in plan.rows(2)]
    batches(0, 1)
    resumed = PlannedBatches(48, plan, seed=3)
    resumed.epoch, resumed.start = 2, 1
    assert list(resumed) == alone[1:]
    with pytest.raises(ConfigError, match="not a multiple of the 3 processes"):
        batches(0, 3)


def test_one_identity_is_no_batch():
    with pytest.raises(DataError, match="1 identity to train on"):
        IdentityBatches([0, 0, NOBODY], [""] * 3, 2, 2)


@pytest.mark.parametrize("fill", ["mean", "released", "random"])
def test_what_is_painted(fill):
    pixels, erasing = torch.full((3, 20, 10), 7.0), RandomErasing(probability=1.0, fill=fill)
    erased = erasing(pixels, MEAN, STD, random.Random(1))
    top, left, rows, columns = erasing.box(20, 10, random.Random(1))
    part = erased[:, top : top + rows, left : left + columns]
    assert (erased == 7).sum() == pixels.numel() - part.numel() and (pixels == 7).all()
    if fill == "random":
        unit = part * torch.tensor(STD).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1)
        assert part.unique().numel() > rows * columns and unit.min() >= -1e-6 and unit.max() <= 1 + 1e-6
    else:
        wanted = torch.tensor(MEAN if fill == "released" else (0.0,) * 3).view(-1, 1, 1)
        torch.testing.assert_close(part, wanted.expand_as(part))


def test_training_pixels_are_a_function_of_the_seed():
    image = np.random.default_rng(0).integers(0, 255, (30, 12, 3), dtype=np.uint8)
    train = PedestrianTransform((32, 16), MEAN, STD, train=True, pad=4)
    plain = PedestrianTransform((32, 16), MEAN, STD)
    assert torch.equal(train(image, seed=5), train(image, seed=5)) and plain(image).shape == (3, 32, 16)
    assert len({train(image, seed=seed).sum().item() for seed in range(8)}) == 8
    still = PedestrianTransform((32, 16), MEAN, STD, train=True, flip=0.0, pad=0, erasing=None)
    assert torch.equal(still(image, seed=1), plain(image))
    flipped = PedestrianTransform((32, 16), MEAN, STD, train=True, flip=1.0, pad=0, erasing=None)
    assert torch.equal(flipped(image, seed=1), plain(image).flip(-1))
    moved = PedestrianTransform((32, 16), (0.0,) * 3, (1.0,) * 3, train=True, flip=0.0, pad=4, erasing=None)
    white = np.full((32, 16, 3), 255, np.uint8)
    kept = [int((moved(white, seed=seed)[0] > 0.5).sum()) for seed in range(20)]
    assert min(kept) >= 28 * 12 and max(kept) <= 32 * 16 and len(set(kept)) > 3  # black comes in at the edges
    floats = plain(image.astype(np.float32) / 255)
    assert (floats - plain(image)).abs().median() < 0.02  # Pillow rounds between both directions
    assert plain.spec != train.spec and plain.spec["size"] == [32, 16]
