"""Processes of this machine, made up: which GPU each sees."""

import os
from types import SimpleNamespace

import pytest
import torch

from vladapt.core.engine.options import ShardOptions
from vladapt.core.shards.executors import pool
from vladapt.core.shards.executors.pool import PoolExecutor

from ..stages import STAGE


class Context:
    """Makes processes that do nothing, and notes which GPU each was given."""

    def __init__(self):
        self.devices = []

    def Pipe(self):
        end = SimpleNamespace(send=lambda task: None, close=lambda: None)
        return end, end

    def Process(self, target, args, daemon):
        self.devices.append(args[3])
        return SimpleNamespace(start=lambda: None, join=lambda timeout=None: None, exitcode=-9)


@pytest.mark.parametrize(("gpus", "seen"), [(["4", "7"], ["4", "7", "4", "7"]), ([], [None] * 4)])
def test_workers_take_the_gpus_in_turn_and_one_in_place_of_another_takes_its_gpu(job_of, images, gpus, seen):
    job = job_of(STAGE, images, shard_size=1)
    executor, context = PoolExecutor(4, gpus), Context()
    executor._context = context
    executor.start(job.work)
    tasks = iter(job.manifest.plan(1))
    for _ in range(4):
        executor.submit(next(tasks))
    assert context.devices == seen
    executor._workers[1].ready = True
    assert len(executor._buried(executor._workers[1])) == 1
    executor.submit(next(tasks))
    assert context.devices == [*seen, seen[1]]


def test_the_gpus_are_those_that_this_process_sees_unless_one_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-1")
    options = ShardOptions(processes=2)
    assert options.executor("auto", print).devices == options.executor("cuda", print).devices == ["5", "GPU-1"]
    assert list(options.executor("cuda:1", print).devices) == list(options.executor("cpu", print).devices) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert options.executor("auto", print).devices == ["0", "1"]


def test_a_worker_sees_its_gpu_before_it_builds_anything(job_of, images, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(pool.signal, "signal", lambda *given: None)
    monkeypatch.setattr(pool.torch, "set_num_threads", lambda count: None)
    seen = []

    class Seeing(type(STAGE)):
        def start(self, threads):
            seen.append(os.environ["CUDA_VISIBLE_DEVICES"])

    def ended():
        raise EOFError

    work = SimpleNamespace(stage=Seeing("seeing", None, {}), threads=None)
    pool._serve(SimpleNamespace(send=lambda outcome: None, recv=ended), work, 1, "1")
    assert seen == ["1"]
