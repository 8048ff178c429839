"""Where requests are taken in where there is room, and their images decoded, answered together and counted."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ..contracts.serving import NoneReadable, Refused, Sample, Served, Wishes
from ..errors import ConfigError, DataError, LimitError
from .batching import Batcher
from .metrics import Metrics
from .uploads import Limits, Shelf, read_uploads

PACKAGE = Path(__file__).resolve().parents[2]


class Busy(Exception):
    """More is waiting than the server holds."""


class Desk:
    """The requests of one process.

    Args:
        model: what answers.
        most: samples that it is asked at once.
        limits: of what is taken.
        uploads: folder for files of requests, of all processes.
        threads: that decode.
        told: called with a line about each fault of the model.

    Attributes:
        metrics: what is counted.
    """

    def __init__(
        self, model: Served, most: int, limits: Limits, uploads: Path, threads: int, told: Callable[[str], None]
    ):
        self.model, self.limits, self._told = model, limits, told
        self._shelf = Shelf(uploads)
        self.metrics = Metrics(self._shelf.dead)
        self._batcher = Batcher(model, most, self.metrics.answered)
        self._images, self._bytes = 0, 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def open(self) -> None:
        """Begin, in the running event loop."""
        self._batcher.start()

    def close(self) -> None:
        """End when all that waits is answered."""
        self._batcher.close()
        self._pool.shutdown()
        self._shelf.remove()

    async def predict(self, request: Any, wishes: Wishes) -> dict[str, Any]:
        """What is said of the files of a request, as the client calls them.

        Raises:
            Busy, NoForm, TooSlow, VladaptError: there is no answer.
        """
        self.model.check(wishes)
        size = min(int(request.headers.get("content-length") or sys.maxsize), self.limits.request_bytes)
        with self._room(1, size):
            uploads = await read_uploads(request, self.limits)
            with self._room(len(uploads) - 1), self._shelf.holding(uploads) as files:
                del uploads
                answer = await self._answer(files, wishes)
        self.metrics.images.labels("answered").inc(len(answer["predictions"]))
        self.metrics.images.labels("refused").inc(len(answer["skipped"]))
        return answer

    def tell(self, failure: BaseException) -> None:
        """Tell of a fault by its type and place; its message may name a file."""
        frames = traceback.extract_tb(failure.__traceback__)
        ours = [frame for frame in frames if PACKAGE in Path(frame.filename).resolve().parents] or frames
        place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
        self._told(f"a request failed: {type(failure).__name__}{place}")

    async def _answer(self, files: dict[Path, str], wishes: Wishes) -> dict[str, Any]:
        names = {text: name for file, name in files.items() for text in (str(file), file.as_posix())}

        def called(text: str) -> str:
            for path, name in names.items():
                text = text.replace(path, name)
            return text

        try:
            answer = await self._answer_files(list(files), wishes)
        except NoneReadable as error:
            renamed = [each._replace(id=called(each.id), reason=called(each.reason)) for each in error.skipped]
            raise NoneReadable(renamed) from None
        except DataError as error:
            raise type(error)(called(str(error))) from None
        for row in answer["predictions"]:
            row["id"] = called(row["id"])
            row |= {"images": [called(each) for each in row["images"]]} if "images" in row else {}
        answer["skipped"] = [[called(text) for text in pair] for pair in answer["skipped"]]
        return answer

    async def _answer_files(self, files: Sequence[Path], wishes: Wishes) -> dict[str, Any]:
        in_pool = partial(asyncio.get_running_loop().run_in_executor, self._pool)
        with self._decoding(len(files)):
            samples, skipped = await in_pool(self._opened, files, wishes)
        if len(samples) > self.limits.waiting:
            raise LimitError(f"{files[0]}: {len(samples)} at once, the limit is {self.limits.waiting}; divide the file")
        with self._room(max(0, len(samples) - len(files))):
            if len(samples) > 1:
                with self._decoding(len(samples)):
                    await asyncio.gather(*(in_pool(self._prepare, sample) for sample in samples))
            damaged = [Refused.of(sample, sample.answer) for sample in samples if sample.answer is not None]
            good = [sample for sample in samples if sample.answer is None]
            await self._batcher.answer(good)
        for sample in good:
            if isinstance(sample.answer, Exception) and not isinstance(sample.answer, (DataError, ConfigError)):
                self.tell(sample.answer)
        return await in_pool(self.model.rows, good, [*skipped, *damaged], wishes)

    def _opened(self, files: Sequence[Path], wishes: Wishes) -> tuple[list[Sample], list[Refused]]:
        """The samples of files; a single one is decoded at once, which spares it a change of threads."""
        samples, skipped = self.model.samples(files)
        for sample in samples:
            sample.wishes = wishes
        if len(samples) == 1:
            self._prepare(samples[0])
        return samples, skipped

    def _prepare(self, sample: Sample) -> None:
        try:
            self.model.prepare(sample)
        except Exception as error:  # a decoder of any library may raise anything on a damaged file
            sample.answer = error

    @contextmanager
    def _room(self, images: int, size: int = 0) -> Iterator[None]:
        """Images, and bytes, that count as waiting in a context; raises `Busy` where there is no room for them."""
        if self._images + images > self.limits.waiting or self._bytes + size > self.limits.waiting_bytes:
            raise Busy
        self._images, self._bytes = self._images + images, self._bytes + size
        self.metrics.waiting.set(self._images)
        try:
            yield
        finally:
            self._images, self._bytes = self._images - images, self._bytes - size
            self.metrics.waiting.set(self._images)

    @contextmanager
    def _decoding(self, images: int) -> Iterator[None]:
        self._batcher.coming += images
        try:
            yield
        finally:
            self._batcher.coming -= images
