"""Folders of tiny images, and executors whose workers die when a test says so."""

import io

import numpy as np
import pytest
from PIL import Image

from vladapt.core.shards import Completed, Executor, Job, Manifest, ShardPlace
from vladapt.core.shards.executors.executor import as_failure
from vladapt.core.shards.run import run_shard


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Dying(Executor):
    """Workers that die where `dies(task, rows)` is true, of the rows that they are about to read."""

    def __init__(self, dies, workers=2):
        self.dies, self.workers, self.held, self.ran = dies, workers, [], []

    def start(self, work):
        self.work, self.state = work, work.stage.start(1)

    def room(self):
        return self.workers * self.AHEAD - len(self.held)

    def submit(self, task):
        self.held.append(task)

    def completed(self, timeout):
        task = self.held.pop(0)
        self.ran.append(task)
        first, last = task.probe or (0, len(task))
        if self.dies(task, [row for row in range(first, last) if row not in task.skip]):
            waiting, self.held = self.held[:1], self.held[1:]
            return [Completed(task), *(Completed(each, running=False) for each in waiting)]
        try:
            return [Completed(task, run_shard(self.work, self.state, task))]
        except Exception as error:
            return [Completed(task, error=as_failure(error))]

    def stop(self):
        self.held = []


@pytest.fixture(scope="session")
def dying():
    return Dying


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """23 images, the number of each its colour, in two folders."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(23):
        file = folder / ("ab"[number // 12]) / f"{number:03}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(png(number))
    return folder


@pytest.fixture(scope="session")
def encoded():
    """`encoded(value)`: the bytes of a PNG of one colour."""
    return png


@pytest.fixture
def job_of(tmp_path):
    """`job_of(stage, sources, out="out", **how)`: a job on them, whose results lie below the test's folder."""

    def make(stage, sources, out="out", **how):
        place = ShardPlace(out if "://" in str(out) else str(tmp_path / out))
        place.check()
        sources = sources if isinstance(sources, list) else [sources]
        manifest = Manifest.of(sources, place, tmp_path / "cache")
        return Job.of(stage, manifest, place, **{"shard_size": 5, "batch_size": 2, **how})

    return make
