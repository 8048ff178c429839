"""A protocol draws, chooses and tests as papers do, and methods are then as published."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.contracts import recipe
from vladapt.core.data.sampling import scenario_counts
from vladapt.core.tasks.classification.protocols import PROTOCOLS

CLASSES = 4
PER_CLASS = {"train": (60, 24, 12, 6), "val": (12, 12, 12, 12), "test": (20, 20, 20, 20)}


@pytest.fixture
def rows(tmp_path) -> Path:
    """A features file with splits, and unequal classes to learn from."""
    drawn, labels, splits = np.random.default_rng(0), [], []
    for split, counts in PER_CLASS.items():
        labels += np.repeat(np.arange(CLASSES), counts).tolist()
        splits += [split] * sum(counts)
    texts = drawn.normal(size=(CLASSES, 16)).astype(np.float32)
    images = texts[labels] + 2 * drawn.normal(size=(len(labels), 16)).astype(np.float32)
    arrays = {"image_features": images, "labels": np.array(labels), "split": np.array(splits)}
    names = np.array([f"class {number}" for number in range(CLASSES)])
    np.savez(tmp_path / "rows.npz", text_features=texts, class_names=names, **arrays)
    return tmp_path / "rows.npz"


@pytest.fixture
def run_of(vladapt, rows):
    def fit(*arguments) -> dict:
        outcome = vladapt("fit", "--features", rows, "--json", *arguments)
        assert outcome.code == 0, outcome.err
        return json.loads((Path(outcome.json["run"]) / "run.json").read_text())

    return fit


@pytest.mark.parametrize(
    ("protocol", "shots", "val"),
    [("coop", 2, 2), ("coop", 8, 4), ("k-val", 8, 8), ("full-val", 2, 12), ("fixed", 8, 0), ("relaxed", 4, 0)],
)
def test_which_images_choose(run_of, protocol, shots, val):
    run = run_of("--protocol", protocol, "--shots", shots, "--adapter", "tip-adapter")
    assert len(run["splits"]["val"]) == val * CLASSES
    chosen_on = run["fit"]["chosen_on"]
    assert chosen_on == (f"val ({val * CLASSES} images)" if val else "defaults: no validation")
    assert any(f"Protocol {protocol}:" in note for note in run["notes"])


@pytest.mark.parametrize("scenario", ["standard", "relaxed", "realistic"])
def test_shots_are_as_unequal_as_the_scenario_says(run_of, rows, scenario):
    run = run_of("--protocol", scenario, "--shots", 4, "--adapter", "ape")
    labels = dict(enumerate(np.load(rows)["labels"].tolist()))
    drawn = Counter(labels[int(id_.rpartition("#")[2] or id_)] for id_ in map(str, run["splits"]["support"]))
    wanted = scenario_counts(np.array(PER_CLASS["train"]), 4, scenario)
    assert [drawn[label] for label in range(CLASSES)] == wanted


def test_methods_are_as_published_unless_an_option_is_given(run_of):
    run = run_of("--protocol", "coop", "--shots", 4, "--adapter", "tip-adapter")
    assert (run["adapter_options"]["class_weight"], run["adapter_options"]["ties"]) == ("none", "published")
    mine = run_of("--protocol", "coop", "--shots", 4, "--adapter", "tip-adapter", "--set", "adapter.ties=plateau")
    assert (mine["adapter_options"]["class_weight"], mine["adapter_options"]["ties"]) == ("none", "plateau")
    without = run_of("--shots", 4, "--adapter", "tip-adapter")
    assert (without["adapter_options"]["class_weight"], without["adapter_options"]["ties"]) == ("balanced", "plateau")


@pytest.mark.parametrize(("given", "most_rows"), [((), 0), (("--set", "adapter.most_rows=64"), 64)])
def test_a_method_is_as_published_in_options_of_its_own(run_of, given, most_rows):
    run = run_of("--protocol", "full-val", "--shots", 4, "--adapter", "proker", *given)
    assert run["adapter_options"]["most_rows"] == most_rows


def test_a_run_says_which_shared_options_counted(run_of):
    """A preset takes those of papers, unless the user gives others."""
    kept = ("class_weight", "ties")
    given = ("--shots", 4, "--adapter", "tip-adapter", "--preset", "eurosat")
    options = run_of(*given)["adapter_options"]
    assert [options[name] for name in kept] == ["none", "published"]
    options = run_of(*given, "--set", "adapter.class_weight=balanced")["adapter_options"]
    assert [options[name] for name in kept] == ["balanced", "published"]


def test_a_comparison_has_the_seeds_and_shots_of_its_protocol(vladapt, rows):
    for protocol, seeds, metric in (("coop", 3, "accuracy"), ("realistic", 20, "balanced accuracy")):
        given = ("--adapters", "gda", "--shots", "2", "--protocol", protocol)
        outcome = vladapt("compare", "--features", rows, *given)
        assert outcome.code == 0, outcome.err
        said = " ".join(outcome.out.split())
        assert said.startswith(f"{metric} ↑") and f"over {seeds} seeds" in said and f"Protocol {protocol}:" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--protocol", "cop"), "--protocol cop: no such protocol; did you mean coop"),
        (("--protocol", "coop", "--val-shots", "4"), "omit --val-shots"),
        (("--protocol", "realistic", "--shots", "all"), "give a number of shots"),
    ],
)
def test_what_cannot_be_is_one_line(vladapt, rows, arguments, said):
    refused = vladapt("fit", "--features", rows, "--adapter", "ape", *arguments)
    assert refused.code in (1, 2) and said in refused.err


def test_the_names_that_are_checked_early_are_those_of_the_protocols():
    assert tuple(PROTOCOLS) == recipe.PROTOCOLS


def test_every_protocol_is_in_the_page():
    page = (Path(__file__).resolve().parents[2] / "docs" / "protocols.md").read_text()
    for name, protocol in PROTOCOLS.items():
        assert f"`{name}`" in page and protocol.used_by.split(" (")[0] in page


def test_the_linear_probe_beside_it_follows_the_protocol(run_of, monkeypatch):
    """Without validation it chooses nothing either, and it is as published."""
    from vladapt.core.registry import build_adapter
    from vladapt.core.tasks.classification import scoring

    fits = []

    def built(name, **options):
        adapter = build_adapter(name, **options)
        if name != "linear-probe":
            return adapter
        fit = adapter.fit
        adapter.fit = lambda *given, **named: fits.append(fit(*given, **named)) or fits[-1]
        fits.append(adapter.options)
        return adapter

    monkeypatch.setattr(scoring, "build_adapter", built)
    run_of("--protocol", "fixed", "--shots", 8, "--adapter", "ape")
    options, report = fits
    assert report.chosen_on == "defaults: no validation"
    assert (options["class_weight"], options["ties"]) == ("none", "published")


def test_which_classes_have_no_image_is_said(run_of):
    notes = run_of("--protocol", "realistic", "--shots", 1, "--adapter", "ape")["notes"]
    (drawn,) = (note for note in notes if note.startswith("Images drawn per class"))
    assert drawn == "Images drawn per class: 0 to 2; none of class 2, class 3."
    assert not any("all used" in note for note in notes)


def test_one_published_set_is_not_put_upon_several(vladapt, rows):
    given = ("--features", rows, "--features", rows, "--adapters", "ape", "--preset", "dtd")
    refused = vladapt("compare", *given)
    assert refused.code != 0 and "--preset dtd: belongs to one data set" in refused.err


def test_a_fit_is_judged_by_the_metric_of_its_protocol(vladapt, tmp_path):
    """Test classes of 40 and 10 images: balanced accuracy decides by itself and under relaxed, accuracy under coop."""
    drawn, labels, splits = np.random.default_rng(0), [], []
    for split, counts in (("train", (40, 10)), ("val", (8, 8)), ("test", (40, 10))):
        labels += np.repeat([0, 1], counts).tolist()
        splits += [split] * sum(counts)
    texts = drawn.normal(size=(2, 16)).astype(np.float32)
    images = texts[labels] + 2 * drawn.normal(size=(len(labels), 16)).astype(np.float32)
    named = {"class_names": np.array(["crane", "heron"]), "split": np.array(splits), "labels": np.array(labels)}
    np.savez(tmp_path / "unequal.npz", image_features=images, text_features=texts, **named)
    for protocol, metric, why in (
        ((), "balanced_accuracy", "because the classes of the test set are unequal (10 to 40 images)"),
        (("--protocol", "coop"), "accuracy", "Accuracy decides, as in the protocol"),
        (("--protocol", "relaxed"), "balanced_accuracy", "because the classes of the test set are unequal"),
    ):
        given = ("--features", tmp_path / "unequal.npz", "--adapter", "ape", "--shots", 4, *protocol)
        outcome = vladapt("fit", *given)
        assert outcome.code == 0, outcome.err
        said = " ".join(outcome.out.split())
        assert why in said
        run = Path(outcome.out.partition("Run:")[2].split()[0])
        assert json.loads((run / "metrics.json").read_text())["deciding"] == metric
        again = vladapt("eval", run, "--json")
        assert again.json["deciding"] == metric
