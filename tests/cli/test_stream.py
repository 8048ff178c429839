"""`predict --stream`: images that come one after the other, and a run that keeps what it learns from each."""

from __future__ import annotations

from pathlib import Path

import pytest

from vladapt.adapters.testtime import _bags
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


@pytest.mark.thorough(but=("tda",))
@pytest.mark.parametrize("name", ["dmn", "tda"])
def test_every_command_sees_the_views_that_were_asked_for(run_of, vladapt, colours, monkeypatch, name):
    """A fit looks at each test image so often, a prediction and a stream at each of theirs."""
    seen = []
    original = _bags.random_views

    def counted(image, count, *rest, **how):
        seen.append(count + 1)
        return original(image, count, *rest, **how)

    monkeypatch.setattr(_bags, "random_views", counted)
    run = run_of(name, "--set", "judge=no", "--set", "adapter.n_views=4")
    tested = load_adapter(run / "adapter.safetensors").seen
    assert set(seen) == {4} and len(seen) >= tested  # val images are looked at too, for the calibration
    seen.clear()
    predicted = len(vladapt("predict", run, colours, "--json").json["predictions"])
    assert seen == [4] * (predicted - tested)  # the fit has answered the test images
    seen.clear()
    vladapt("predict", run, colours / "red", "--stream", "--json")
    assert seen == [4] * 12


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
