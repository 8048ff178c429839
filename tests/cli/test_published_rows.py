"""A comparison under a protocol prints the published row beside ours, with the difference."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vladapt.core.engine.comparison import Comparison
from vladapt.core.tasks.classification import protocols
from vladapt.core.tasks.classification.protocols import ELEVEN
from vladapt.core.tasks.classification.task import Classification

pytestmark = pytest.mark.usefixtures("one_cache")


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory, drawn_lands) -> Path:
    return drawn_lands(tmp_path_factory.mktemp("lands") / "eurosat", images=16)


@pytest.fixture
def as_rn50(monkeypatch, small_clip_spec) -> str:
    """A small backbone that counts as OpenAI's RN50."""
    aliases = {small_clip_spec: "openai-rn50"}
    monkeypatch.setattr(protocols, "alias_of", lambda spec: aliases.get(spec, spec))
    monkeypatch.setitem(
        protocols._rows(),
        ("tip-adapter", "openai-rn50", "full-val", "eurosat", ""),
        {"accuracy": {"2": 50.0}, "source": "an invented paper"},
    )
    return small_clip_spec


def compared(vladapt, data, backbone, *more, seeds="1"):
    given = ("--data", data, "--backbone", backbone, "--adapters", "tip-adapter", "--seeds", seeds)
    outcome = vladapt("compare", *given, *more)
    assert outcome.code == 0, outcome.err
    return outcome


def test_published_and_difference_stand_under_ours(vladapt, eurosat, as_rn50):
    how = ("--shots", "2,4", "--protocol", "full-val", "--markdown")
    outcome = compared(vladapt, eurosat, as_rn50, *how, seeds="1,2")
    cells = [[cell.strip() for cell in line.split("|")[1:]] for line in outcome.out.splitlines() if "|" in line]
    lines = {row[0]: row for row in cells}
    ours = float(lines["tip-adapter"][1].split(" ±")[0])
    assert lines["published"][1:3] == ["50.0", ""]
    assert float(lines["difference"][1].replace("−", "-")) == pytest.approx(ours - 50, abs=0.06)
    assert "Published for tip-adapter: an invented paper." in outcome.out
    rows = list(csv.DictReader(Path(outcome.out.partition("Rows: ")[2].split()[0]).read_text().splitlines()))
    assert {(row["adapter"], row["shots"], row["published"]) for row in rows if row["published"]} == {
        ("tip-adapter", "2", "0.5")
    }


def test_nothing_published_is_beside_a_method_with_other_settings(vladapt, eurosat, as_rn50):
    changed = ("--set", "adapters.tip-adapter.views=0")
    outcome = compared(vladapt, eurosat, as_rn50, "--shots", "2", "--protocol", "full-val", "--markdown", *changed)
    assert "| published |" not in outcome.out and "Published for" not in outcome.out


@pytest.mark.thorough
def test_it_is_in_the_json(vladapt, eurosat, as_rn50):
    found = compared(vladapt, eurosat, as_rn50, "--shots", "2", "--protocol", "full-val", "--json").json
    (row,) = found["published"]
    assert (row["adapter"], row["shots"], row["published"], row["published_in"]) == (
        "tip-adapter", 2, 0.5, "an invented paper",
    )  # fmt: skip
    assert row["published_difference"] == pytest.approx(row["mean"] - 0.5)


@pytest.mark.thorough(but=("more0",))
@pytest.mark.parametrize("more", [(), ("--protocol", "k-val"), ("--protocol", "full-val", "--preset", "none")])
def test_nothing_is_shown_under_another_protocol_or_set(vladapt, eurosat, as_rn50, more):
    found = compared(vladapt, eurosat, as_rn50, "--shots", "2", "--splits", "1", *more, "--json")
    assert "published" not in found.json


def test_a_fit_says_it_too(vladapt, eurosat, as_rn50):
    given = ("--data", eurosat, "--backbone", as_rn50, "--adapter", "tip-adapter", "--shots", 2)
    with_protocol = vladapt("fit", *given, "--protocol", "full-val")
    assert "Published for tip-adapter under full-val on eurosat, mean over seeds: 50.0% (an invented paper)" in (
        " ".join(with_protocol.out.split())
    )
    assert "Published for" not in vladapt("fit", *given).out


def test_the_mean_over_the_eleven_sets_has_its_own(tmp_path):
    """Written out: two sets of 60 and 64 % against a published mean of 61 %."""
    rows = [{"adapter": "ape", "shots": 1, "seed": 1, "data": name, "accuracy": of, "seconds": 0.0}
            for name, of in (("dtd", 0.60), ("sun397", 0.64))]  # fmt: skip
    means = [{"adapter": "ape", "shots": 1, "published": 0.61, "published_in": "APE"}]
    found = Comparison(rows, tmp_path, tmp_path, {}, [], published_means=means)
    (mean,) = found.published()
    assert (mean["data"], mean["mean"], mean["published_difference"]) == ("mean", 0.62, pytest.approx(0.01))
    from vladapt.core.commands.tables import comparison_cells

    header, ours, published, difference = comparison_cells(found.summary(), found.published())
    assert [row[header.index("mean")] for row in (ours, published, difference)] == ["62.0", "61.0", "+1.0"]


def test_a_mean_over_some_of_the_sets_is_not_beside_that_of_all(tmp_path):
    """A method that one set refused has no mean, so that nothing is published for it."""
    rows = [{"adapter": name, "shots": 1, "seed": 1, "data": on, "accuracy": 0.6, "seconds": 0.0}
            for name, on in (("ape", "dtd"), ("ape", "sun397"), ("tip-x", "dtd"))]  # fmt: skip
    means = [{"adapter": name, "shots": 1, "published": 0.61, "published_in": "APE"} for name in ("ape", "tip-x")]
    found = Comparison(rows, tmp_path, tmp_path, {}, [], published_means=means)
    assert [mean["adapter"] for mean in found.published()] == ["ape"]


def test_which_means_are_published():
    def setting(name):
        return protocols.Setting("openai-rn50", "full-val", name)

    eleven = protocols._table()["eleven"]
    rows = [{"adapter": "ape", "shots": 1}, {"adapter": "gda", "shots": 1}]
    (mean,) = Classification().published_means([setting(name) for name in eleven], rows)
    assert (mean["adapter"], mean["published"]) == ("ape", pytest.approx(0.6513))
    assert Classification().published_means([setting(name) for name in eleven[1:]], rows) == []
    assert Classification().published_means([setting(eleven[0]), None], rows) == []
    assert ELEVEN == "eleven"


def test_of_kinds_of_tasks_published_numbers_are_a_column(tmp_path):
    from vladapt.core.commands.tables import comparison_cells

    known = {"published": 0.6542, "published_in": "a paper"}
    rows = [
        {"adapter": "transclip", "shots": 0, "seed": 1, "tasks": kind, "task_count": 2, "accuracy": of, "seconds": 0.0,
         "accuracy_std": 0.02, **more}
        for kind, of, more in (("all", 0.66, known), ("1-4 of 64", 0.5, {}))
    ]  # fmt: skip
    found = Comparison(rows, tmp_path, tmp_path, {}, [])
    cells = comparison_cells(found.summary(), found.published())
    assert cells[:3] == [
        ["tasks", "transclip", "  published", "  difference"],
        ["all", "66.0 ± 2.0", "65.4", "+0.6"],
        ["1-4 of 64", "50.0 ± 2.0", "", ""],
    ]
