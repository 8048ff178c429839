"""Augmentation from (seed, epoch, index), in any process, in any order, in trainings without epochs too."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.modules.datasets.seeded import PassSampler, SeededDataset, Visit


class Drawn(Dataset):
    """Samples of random numbers from all that transforms draw from."""

    metainfo = {"classes": ("a",)}  # noqa: RUF012
    pipeline = None

    def __len__(self):
        return 6

    def __getitem__(self, index):
        assert type(index) is int
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)


def drawn(epoch=0, seed=3, indices=range(6)):
    dataset = SeededDataset(Drawn(), seed=seed)
    dataset.set_epoch(epoch)
    return torch.stack([dataset[index] for index in indices])


def test_a_sample_is_the_same_again_in_whatever_order():
    assert torch.equal(drawn(), drawn())
    assert torch.equal(drawn(), drawn(indices=reversed(range(6))).flip(0))


def test_another_epoch_seed_or_image_draws_anew():
    first = drawn()
    for other in (drawn(epoch=1), drawn(seed=4), drawn().roll(1, 0)):
        assert (first[:, 1:] != other[:, 1:]).all()


def test_what_others_draw_is_untouched():
    def others():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    found = []
    for touched in (False, True):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        if touched:
            drawn()
        found.append(others())
    assert found[0] == found[1]


@pytest.mark.thorough(but=("0",))
@pytest.mark.parametrize("workers", [0, 2])
def test_processes_change_nothing(workers):
    dataset = SeededDataset(Drawn(), seed=3)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size=2, num_workers=workers)
        assert torch.equal(torch.cat(list(loader)), drawn(epoch))


def test_what_is_asked_of_the_data_the_inner_set_answers():
    dataset = SeededDataset(Drawn())
    assert dataset.metainfo == {"classes": ("a",)} and len(dataset) == 6
    dataset.pipeline = "another"
    assert dataset.inner.pipeline == "another" and "pipeline" not in vars(dataset)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[2], dataset[2]) and again.pipeline == "another"
    with pytest.raises(AttributeError):
        dataset.nothing  # noqa: B018


def stream(dataset, count, sampler="InfiniteSampler", workers=0):
    """The first samples that a training without epochs sees."""
    sampler = PassSampler(dataset, {"type": sampler, "shuffle": True}, seed=1)
    loader = DataLoader(dataset, batch_size=3, sampler=sampler, num_workers=workers, prefetch_factor=None)
    found = []
    for batch in loader:
        found.append(batch)
        if len(found) * 3 >= count:
            break
    return torch.cat(found)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_pass_of_a_training_without_epochs_is_an_epoch(workers):
    found = stream(SeededDataset(Drawn(), seed=3), 18, workers=workers)
    for epoch in range(3):
        part = found[6 * epoch : 6 * epoch + 6]
        assert torch.equal(part[part[:, 0].argsort()], drawn(epoch))


def test_a_sampler_that_ends_is_begun_again_with_its_epoch():
    dataset = SeededDataset(Drawn(), seed=3)
    sampler = PassSampler(dataset, {"type": "DefaultSampler", "shuffle": True}, seed=1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        visits = list(sampler)
        assert sorted(visits) == list(range(6)) and {visit.passes for visit in visits} == {epoch}
        orders.append(visits)
    assert orders[0] != orders[1] and len(sampler) == 6


def test_passes_are_counted_over_processes(monkeypatch):
    from mmengine.dataset import sampler as mmengine_sampler

    from vladapt.domains.open_vocab.modules.datasets import seeded

    seen = []
    for rank in range(2):
        for module in (mmengine_sampler, seeded):
            monkeypatch.setattr(module, "get_dist_info", lambda rank=rank: (rank, 2))
        visits = iter(PassSampler(SeededDataset(Drawn()), {"type": "InfiniteSampler", "shuffle": True}, seed=1))
        seen += [next(visits) for _ in range(6)]
    assert sorted((visit.passes, int(visit)) for visit in seen) == [(p, i) for p in range(2) for i in range(6)]


def test_a_visit_travels_to_a_process_as_it_is():
    visit = pickle.loads(pickle.dumps(Visit.of(4, 2)))
    assert visit == 4 and visit.passes == 2 and [10, 11, 12, 13, 14][visit] == 14
