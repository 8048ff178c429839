"""Images of several requests go through the model at once, no more than it should; what finds no room is refused."""

from __future__ import annotations

import asyncio
import threading

import pytest

from vladapt.core.contracts.serving import ClassifierFacts, Sample, Served
from vladapt.core.serving.batching import Batcher, answer_each, best_batch
from vladapt.core.serving.uploads import Limits


class Slow(Served):
    """A model that waits for permission, and remembers how many samples it was asked at once."""

    name, facts, sizes = "slow", ClassifierFacts("classification", "slow", ["a"], (), False, [], False), (1, 2, 4, 8)

    def __init__(self, seconds=None):
        self.goes, self.asked, self.seconds = threading.Event(), [], seconds or {}
        self.begun = threading.Semaphore(0)

    def samples(self, files):
        return [Sample(str(file), file) for file in files], []

    def prepare(self, sample):
        sample.prepared = sample.source.read_bytes()

    def answer(self, samples):
        self.asked.append(len(samples))
        self.begun.release()
        assert self.goes.wait(60)
        for sample in samples:
            sample.answer = sample.id

    def check(self, wishes):
        pass

    def rows(self, samples, skipped, wishes):
        return {"run": self.name, "predictions": [{"id": sample.id} for sample in samples], "skipped": []}

    def examples(self, count):
        return [Sample(str(number), None, b"") for number in range(count)] if self.seconds else []


class Picky(Slow):
    """Cannot answer one of the samples, and says so of all that come with it."""

    def answer(self, samples):
        self.asked.append(len(samples))
        if any(sample.id == "torn" for sample in samples):
            raise ValueError("torn")
        for sample in samples:
            sample.answer = sample.id


def test_one_that_cannot_be_answered_costs_no_other_its_answer():
    model, samples = Picky(), [Sample(name, None) for name in ("a", "torn", "b")]
    answer_each(model, samples)
    assert [samples[0].answer, samples[2].answer] == ["a", "b"] and model.asked == [3, 1, 1, 1]
    assert isinstance(samples[1].answer, ValueError)


def test_what_comes_while_the_model_is_busy_goes_through_it_together():
    async def run() -> Slow:
        model = Slow()
        batcher = Batcher(model, most=4)
        batcher.start()
        first = asyncio.create_task(batcher.answer([Sample("0", None)]))
        await asyncio.to_thread(model.begun.acquire)
        requests = [[Sample(f"{n} {k}", None) for k in range(3)] for n in range(3)]
        others = [asyncio.create_task(batcher.answer(samples)) for samples in requests]
        await asyncio.sleep(0.01)
        model.goes.set()
        await asyncio.gather(first, *others)
        await asyncio.to_thread(batcher.close)
        assert all(sample.answer == sample.id for samples in requests for sample in samples)
        return model

    assert asyncio.run(run()).asked == [1, 4, 4, 1]


@pytest.mark.parametrize(("coming", "asked"), [(1, [2]), (0, [1, 1])])
def test_a_model_waits_for_images_that_are_being_decoded(coming, asked, monkeypatch):
    monkeypatch.setattr("vladapt.core.serving.batching.LINGER_S", 60)

    async def run() -> Slow:
        model = Slow()
        model.goes.set()
        batcher = Batcher(model, most=2)
        batcher.coming = coming
        batcher.start()
        first = asyncio.create_task(batcher.answer([Sample("0", None)]))
        if coming:
            await asyncio.sleep(0.05)
            assert not first.done()
        else:
            await first
        await asyncio.gather(first, batcher.answer([Sample("1", None)]))
        await asyncio.to_thread(batcher.close)
        return model

    assert asyncio.run(run()).asked == asked


class Priced(Slow):
    """A model whose answers cost what is said, by a clock of its own."""

    def __init__(self, seconds):
        super().__init__(seconds)
        self.goes.set()
        self.now = 0.0

    def clock(self):
        return self.now

    def answer(self, samples):
        super().answer(samples)
        self.now += self.seconds[len(samples)]


@pytest.mark.parametrize(
    ("seconds", "best", "tried"),
    [
        ({1: 1.0, 2: 1.2, 4: 2.44, 8: 1.0}, 2, {1, 2, 4}),
        ({1: 1.0, 2: 2.0, 4: 1.0, 8: 1.0}, 1, {1, 2}),
        ({1: 1.0, 2: 1.8, 4: 3.2, 8: 5.6}, 8, {1, 2, 4, 8}),
        ({}, 4, set()),  # nothing can be measured: the middle of those worth trying
    ],
)
def test_a_batch_grows_while_that_saves_time_per_image_by_the_models_clock(seconds, best, tried):
    model = Priced(seconds)
    assert best_batch(model) == best
    assert set(model.asked) == tried


def test_slow_first_answers_of_a_size_do_not_count():
    class Cold(Priced):
        def answer(self, samples):
            self.now += 5.0 * (len(samples) not in self.asked)
            super().answer(samples)

    assert best_batch(Cold({1: 1.0, 2: 1.2, 4: 2.44, 8: 8.0})) == 2


def test_a_full_house_is_503_and_others_are_still_answered(serving):
    model = Slow()
    with serving(model, Limits(waiting=3)) as (client, _):
        answers = []

        def send(count):
            sent = [("files", (f"{n}.png", b"x")) for n in range(count)]
            answers.append(client.post("/predict", files=sent))

        first = threading.Thread(target=send, args=(2,))
        first.start()
        model.begun.acquire()
        send(2)
        assert answers[0].status_code == 503 and answers[0].headers["Retry-After"] == "1"
        assert answers[0].json() == {"error": "too many images are waiting; try again"}
        assert "vladapt_waiting_images 2.0" in client.get("/metrics").text
        model.goes.set()
        first.join(60)
        send(3)
        assert [answer.status_code for answer in answers] == [503, 200, 200]
        assert "vladapt_waiting_images 0.0" in client.get("/metrics").text


def test_more_bytes_than_there_is_room_for_are_503_too(serving):
    with serving(Slow(), Limits(waiting_bytes=1000)) as (client, _):
        assert client.post("/predict", files=[("files", ("a.png", b"0" * 2000))]).status_code == 503
