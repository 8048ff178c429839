"""`predict --stream`: images that come one after the other, and a run that keeps what it learns from each."""

from __future__ import annotations

from pathlib import Path

import pytest

from vladapt.core.registry import load_adapter
from vladapt.core.runtime.files import claimed


@pytest.fixture
def run_of(fit, colours):
    def made(name, *more) -> Path:
        return Path(fit("--data", colours, "--adapter", name, "--shots", 0, *more, "--json").json["run"])

    return made


def test_a_stream_goes_on_where_the_call_before_ended(run_of, vladapt, colours):
    run = run_of("onzeta", "--set", "judge=no")
    seen = load_adapter(run / "adapter.safetensors").seen
    plain = [vladapt("predict", run, colours / "red", "--json").json["predictions"] for _ in range(2)]
    assert plain[0] == plain[1] and load_adapter(run / "adapter.safetensors").seen == seen
    first, second = (vladapt("predict", run, colours, "--stream", "--json").json["predictions"] for _ in range(2))
    assert [row["id"] for row in first] == [row["id"] for row in second]
    assert first != second
    assert load_adapter(run / "adapter.safetensors").seen == seen + 2 * len(first)
    assert not (run / "streaming.lock").exists()
    assert vladapt("eval", run).code == 0, "it knows its adapter, which is another now"


def test_one_at_a_time(run_of, vladapt, colours):
    run = run_of("tda", "--set", "judge=no")
    with claimed(run / "streaming.lock"):
        error = vladapt("predict", run, colours, "--stream").error
    assert "another process streams images through this run" in error


def test_a_run_whose_method_was_not_kept_says_so(run_of, vladapt, colours):
    error = vladapt("predict", run_of("onzeta"), colours, "--stream").error
    assert "onzeta was not kept, because nothing showed that it helps; omit --stream, or fit with" in error


def test_a_method_that_learns_nothing_from_what_it_is_asked(run_of, vladapt, colours):
    run = run_of("zero-shot")
    before = (run / "adapter.safetensors").read_bytes()
    assert (
        "'zero-shot' learns nothing from the images it predicts; omit --stream"
        in vladapt("predict", run, colours, "--stream").error
    )
    assert (run / "adapter.safetensors").read_bytes() == before
