"""Training on shards that are read in a row: the same batches on any number of ranks and workers, and after a stop."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Group
from tar_shards import png, shard
from training_process import streamed

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.training import batches as batches_module
from vladapt.core.training import loading
from vladapt.core.training import samples as samples_module
from vladapt.core.training.batches import GlobalBatches, StreamBatches, streams_for
from vladapt.core.training.loading import BatchLoader, worker_count
from vladapt.core.training.samples import BrokenSamples, Samples
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

COUNTS = [30, 7, 41, 24]
SETTINGS = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "warmup": 0.0, "seed": 3, "workers": 2, "save_every": 2}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards -> their counts."""
    folder, number, counts = tmp_path_factory.mktemp("shards"), 0, {}
    for i, count in enumerate(COUNTS):
        members = {}
        for number in range(number, number + count):  # noqa: B020
            members |= {f"{number:04d}.png": png(number), f"{number:04d}.txt": f"a picture number {number}"}
        number += 1
        counts[str(shard(folder / f"{i}.tar", members))] = count
    return counts


def as_ranks(monkeypatch, ranks, me):
    monkeypatch.setattr(batches_module, "world_size", lambda: ranks)
    monkeypatch.setattr(batches_module, "rank", lambda: me)


def samples_of(source):
    return Samples(source, frozenset({"pixels", "tokens"}), {"light": mean_red}, lengths, seed=3)


def mean_red(decoded, seed):
    return torch.tensor([float(np.asarray(decoded)[0, 0, 0]), seed % 1000])


def lengths(texts):
    return torch.tensor([[int(text.split()[-1])] for text in texts])


def epoch(monkeypatch, shards, ranks=1, workers=0, streams=4, number=0, start=0, batch_size=8, **options):
    """For each step the batch of all ranks: (samples, 4), row, text, red, seed of the view."""
    parts = []
    for me in range(ranks):
        as_ranks(monkeypatch, ranks, me)
        source = streamed(shards, block=20, **options)
        batches = StreamBatches(len(source), batch_size, streams)
        batches.epoch, batches.start = number, start
        made = list(BatchLoader(samples_of(source), batches, workers, pin=False))
        assert len(made) == len(batches) - start
        parts.append([torch.cat([b["index"][:, None], b["tokens"], b["pixels"]], dim=1) for b in made])
    return [torch.cat(step) for step in zip(*parts)]


@pytest.mark.thorough(but=("2-2", "1-1", "1-2"))
@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (1, 3), (2, 0), (2, 2), (4, 1)])
def test_batches_are_the_same_on_any_number_of_ranks_and_workers(monkeypatch, shards, ranks, workers):
    alone = epoch(monkeypatch, shards)
    made = epoch(monkeypatch, shards, ranks, workers)
    assert len(alone) == 12 and all(torch.equal(one, other) for one, other in zip(alone, made, strict=True))


def test_no_sample_comes_twice_in_an_epoch_and_each_is_whole(monkeypatch, shards):
    rows = torch.cat(epoch(monkeypatch, shards))
    assert len(rows[:, 0].unique()) == len(rows) == 96 and rows[:, 0].max() < sum(COUNTS)
    assert torch.equal(rows[:, 0], rows[:, 1]) and torch.equal(rows[:, 0] % 256, rows[:, 2])


def test_what_an_epoch_leaves_out_is_counted_and_comes_in_others(monkeypatch, shards):
    as_ranks(monkeypatch, 1, 0)
    assert StreamBatches(102, 8, 4).left_out == 6 and StreamBatches(102, 8, 4, drop_last=False).left_out == 2
    seen = {row for number in range(4) for row in torch.cat(epoch(monkeypatch, shards, number=number))[:, 0].tolist()}
    assert seen == set(range(102))


@pytest.mark.thorough(but=("2",))
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_with_exactly_what_was_not_seen(monkeypatch, shards, workers):
    whole = epoch(monkeypatch, shards, workers=workers, number=1)
    for start in (1, 5, 11):
        rest = epoch(monkeypatch, shards, workers=workers, number=1, start=start)
        assert all(torch.equal(one, other) for one, other in zip(whole[start:], rest, strict=True))


def test_large_batches_are_made_of_pieces(monkeypatch, shards):
    monkeypatch.setattr(loading, "PIECE", 3)
    sizes = []
    collate = loading.collate
    monkeypatch.setattr(loading, "collate", lambda samples, *to: sizes.append(len(samples)) or collate(samples, *to))
    made = epoch(monkeypatch, shards, streams=2, batch_size=32)
    assert max(sizes) == 3 and {len(batch) for batch in made} == {32}
    monkeypatch.setattr(loading, "PIECE", 32)
    whole = epoch(monkeypatch, shards, streams=2, batch_size=32)
    assert all(torch.equal(one, other) for one, other in zip(made, whole, strict=True))


def test_pieces_of_an_indexed_set_make_the_batches_of_a_whole(monkeypatch, toy_pairs):
    monkeypatch.setattr(loading, "PIECE", 3)

    def made(workers):
        samples = Samples(toy_pairs(24), frozenset({"pixels"}), {"light": mean_red}, lengths, seed=3)
        return [b["pixels"] for b in BatchLoader(samples, GlobalBatches(24, 8, seed=1), workers, pin=False)]

    assert all(torch.equal(one, other) for one, other in zip(made(0), made(2), strict=True))


def test_lengths_of_texts_stay_with_the_host_however_a_batch_was_made(monkeypatch, toy_pairs):
    monkeypatch.setattr(loading, "PIECE", 3)

    def batch(workers):
        def tokens(texts):
            return torch.tensor([[1] * len(text.split()) + [0] * (9 - len(text.split())) for text in texts])

        samples = Samples(toy_pairs(24), frozenset({"tokens"}), {}, tokens, 3, token_mask=lambda tokens: tokens > 0)
        return next(iter(BatchLoader(samples, GlobalBatches(24, 8, seed=1), workers, pin=False)))

    for made in (batch(0), batch(2)):
        assert isinstance(made["lengths of tokens"], np.ndarray)
        assert made["lengths of tokens"].tolist() == made["tokens"].sum(dim=1).tolist() == [6] * 8


@pytest.mark.parametrize(("sample_bytes", "ready"), [(1, 4), (2 << 20, 4), (8 << 20, 2), (100 << 20, 1)])
def test_workers_hold_pieces_of_a_bounded_size_ready(toy_pairs, sample_bytes, ready):
    samples = Samples(toy_pairs(24), frozenset({"pixels"}), {"light": mean_red}, lengths, seed=3)
    batches = BatchLoader(samples, GlobalBatches(24, 8, seed=1), 2, pin=False, sample_bytes=sample_bytes)
    assert batches._pieces().prefetch_factor == ready


def test_a_large_batch_is_not_made_ahead(monkeypatch, toy_pairs):
    started = []
    thread = loading.threading.Thread
    monkeypatch.setattr(loading.threading, "Thread", lambda **options: started.append(1) or thread(**options))
    samples = Samples(toy_pairs(24), frozenset({"pixels"}), {"light": mean_red}, lengths, seed=3)

    def count():
        started.clear()
        list(loading._ahead(iter(BatchLoader(samples, GlobalBatches(24, 8, seed=1), 0, pin=False))))
        return len(started)

    assert count() == 1
    monkeypatch.setattr(loading, "AHEAD_BYTES", 10)
    assert count() == 0


def test_an_error_while_a_batch_is_made_ahead_reaches_the_loop_and_an_early_end_stops_it():
    def batches():
        yield {"a": torch.zeros(1)}
        yield {"a": torch.ones(1)}
        raise DataError("of a worker")

    made = loading._ahead(batches())
    assert [float(next(made)["a"]) for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="of a worker"):
        next(made)
    early = loading._ahead({"a": torch.zeros(1)} for _ in range(1000))
    next(early), next(early)
    early.close()
    assert not [t for t in loading.threading.enumerate() if "_fill" in str(getattr(t, "_target", ""))]


def test_samples_that_cannot_be_read_are_named_and_others_come_in_their_place(monkeypatch, shards, tmp_path):
    members = {}
    for number in range(40):
        image = b"no image" if number == 7 else png(number)
        members |= {f"{number:04d}.png": image, f"{number:04d}.txt": f"the {number}"}
    short = {str(shard(tmp_path / "s.tar", members)): 41}
    as_ranks(monkeypatch, 1, 0)
    batches = StreamBatches(41, 41, 1)
    (batch,) = BatchLoader(samples_of(streamed(short)), batches, 0, pin=False)
    assert len(batch["index"]) == 41
    named = dict(batch["broken"])
    assert set(named) == {"s.tar:0007", "s.tar:sample 40"}
    assert "ends before sample 40" in named["s.tar:sample 40"]


def test_unreadable_samples_beyond_many_are_counted_and_not_named(monkeypatch):
    monkeypatch.setattr(samples_module, "MOST_NAMED", 3)
    broken = BrokenSamples(total=100)
    broken.note((f"s.tar:{i}", "lost") for i in [0, 1, 2, 3, 1, 4])
    assert sorted(broken.reasons) == ["s.tar:0", "s.tar:1", "s.tar:2"] and broken.further == 2
    broken.gather()
    broken.note((f"s.tar:{i}", "lost") for i in range(6))
    with pytest.raises(DataError, match=r"6 of 100 training samples cannot be read, more than 5 %; s.tar:0: lost"):
        broken.gather()


def test_streams_that_do_not_share_a_batch_are_refused(monkeypatch):
    as_ranks(monkeypatch, 2, 0)
    assert [streams_for(8, workers, 100) for workers in (0, 1, 2, 3, 4, 100)] == [2, 2, 4, 4, 8, 8]
    with pytest.raises(ConfigError):
        streams_for(9, 1, 100)
    with pytest.raises(ConfigError, match="3 streams read this set, and 2 processes cannot share"):
        StreamBatches(100, 12, 3)
    with pytest.raises(ConfigError, match="--batch-size 10 is not a multiple of the 4 streams"):
        StreamBatches(100, 10, 4)
    with pytest.raises(ConfigError):
        StreamBatches(3, 8, 4)


def test_workers_are_there_where_a_gpu_or_a_stream_waits(monkeypatch):
    monkeypatch.setattr(loading.os, "sched_getaffinity", lambda process: range(12), raising=False)
    assert worker_count(None, torch.device("cpu"), False) == 0 and worker_count(3, torch.device("cpu"), False) == 3
    assert worker_count(None, torch.device("cuda"), False) == worker_count(None, torch.device("cpu"), True) == 12
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert worker_count(None, torch.device("cuda"), False) == 3 and worker_count(0, torch.device("cuda"), True) == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "40")
    assert worker_count(None, torch.device("cuda"), False) == 1


# whole trainings -------------------------------------------------------------------------------------------------


def test_the_order_is_said(fresh_clip, shards, tmp_path):
    said = []
    task = TrainingTask(streamed(shards, streams=4), {"clip": 1.0})
    settings = TrainingSettings(**{**SETTINGS, "epochs": 1, "workers": 0})
    done = train(fresh_clip, task, settings, tmp_path, on_message=said.append)
    assert done.steps == 12 and np.isfinite(done.history[0]["loss"])
    assert said == [
        "Order: by shard. 4 shards with 102 samples are read in sequence by 4 streams, shuffled by shard and among "
        "1,000 samples; an epoch leaves 6 samples out"
    ]


def test_a_loss_that_looks_at_the_whole_set_is_refused(fresh_clip, shards, tmp_path):
    task = TrainingTask(streamed(shards), {"protoclip": 1.0}, {"protoclip": {"clusters": 2, "hidden_dim": 8}})
    with pytest.raises(CapabilityError, match="loss protoclip reads all 102 samples before each epoch"):
        train(fresh_clip, task, TrainingSettings(**{**SETTINGS, "workers": 0}), tmp_path)


@pytest.fixture
def job(small_clip_spec, shards):
    """Of two of the shards: 37 samples, in 2 epochs of 4 steps."""
    two = dict(list(shards.items())[:2])
    settings = {**SETTINGS, "optimizer": "sgd", "lr": 1e-2}
    return {"spec": small_clip_spec, "losses": {"clip": 1.0}, "shards": {"counts": two}, "settings": settings}


def run(job: dict, ranks: int = 1, expect: int = 0) -> dict | None:
    with Group([Path(__file__).with_name("training_process.py"), json.dumps(job)], ranks) as group:
        for done in group.finished():
            assert done.returncode == expect, done.stderr[-3000:]
    return torch.load(Path(job["folder"]) / "done.pt") if expect == 0 else None


def difference(one, other):
    return max(float((one["weights"][name] - other["weights"][name]).abs().max()) for name in one["weights"])


@pytest.mark.thorough
def test_two_ranks_with_two_workers_go_on_in_the_middle_as_if_not_stopped(job, tmp_path):
    """And on one process, which reads by as many streams, they come to the same weights."""
    job["shards"] = {**job["shards"], "block": 9}
    whole = run({**job, "folder": str(tmp_path / "whole")}, ranks=2)
    stopped = {**job, "folder": str(tmp_path / "stopped")}
    run({**stopped, "kill_at": 7}, ranks=2, expect=-signal.SIGKILL)
    again = run({**stopped, "resume": True}, ranks=2)
    assert any("Resumed at step 6 of 8" in line for line in again["said"])
    assert difference(whole, again) == 0 and whole["history"] == again["history"]
    job["shards"] = {**job["shards"], "streams": 4}
    alone = run({**job, "folder": str(tmp_path / "alone"), "settings": {**job["settings"], "workers": 0}})
    assert difference(alone, whole) < 1e-5


def test_a_run_goes_on_by_the_streams_it_began_with(job, tmp_path):
    """Begun on two ranks of two workers, gone on with on one process without any."""
    job["folder"] = str(tmp_path / "run")
    whole = run({**job, "folder": str(tmp_path / "whole")}, ranks=2)
    run({**job, "kill_at": 7}, ranks=2, expect=-signal.SIGKILL)
    again = run({**job, "settings": {**job["settings"], "workers": 0}, "resume": True})
    assert difference(whole, again) < 1e-5


def test_a_shard_that_goes_missing_on_one_rank_ends_both_with_its_name(small_clip_spec, shards, tmp_path):
    gone = {path.replace("/2.tar", "/gone.tar"): count for path, count in shards.items()}
    job = {"spec": small_clip_spec, "losses": {"clip": 1.0}, "settings": SETTINGS, "folder": str(tmp_path)}
    command = [Path(__file__).with_name("training_process.py"), json.dumps({**job, "shards": {"counts": gone}})]
    with Group(command, 2) as group:
        finished = group.finished()
    for done in finished:
        assert done.returncode == 1 and "gone.tar: no such file; restore it" in done.stderr.splitlines()[-1]
