"""--protocol transductive: test images without labels in tasks of several kinds, as StatA draws them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.commands.tables import comparison_table
from vladapt.core.data.test_batches import TASKS, TestStream, full_batches
from vladapt.core.engine.comparison import Comparison

CLASSES, DIM, SCALE = 12, 32, 5.0


@pytest.fixture
def rows(tmp_path) -> Path:
    """A features file of 12 classes with 30 test rows each, which the texts tell apart in part."""
    drawn, labels = np.random.default_rng(0), np.repeat(np.arange(CLASSES), 30)
    classes = drawn.normal(size=(CLASSES, DIM))
    images = classes[labels] + 0.6 * drawn.normal(size=(len(labels), DIM))
    texts = classes + 2 * drawn.normal(size=(CLASSES, DIM))
    arrays = {"image_features": images.astype("f4"), "text_features": texts.astype("f4"), "labels": labels}
    arrays["logit_scale"] = np.float32(SCALE)
    names = np.array([f"class {number}" for number in range(CLASSES)])
    np.savez(tmp_path / "rows.npz", class_names=names, split=np.array(["test"] * len(labels)), **arrays)
    return tmp_path / "rows.npz"


def compared(vladapt, rows, *more):
    given = ("--features", rows, "--protocol", "transductive", "--adapters", "zero-shot,transclip,stat-a")
    outcome = vladapt("compare", *given, *more)
    assert outcome.code == 0, outcome.err
    return outcome


def table_of(outcome) -> dict[tuple[str, str], dict[str, str]]:
    table = Path(outcome.out.partition("Rows: ")[2].split()[0]).read_text()
    return {(row["adapter"], row["tasks"]): row for row in csv.DictReader(table.splitlines())}


@pytest.mark.thorough
def test_each_kind_is_a_row_with_the_mean_over_its_tasks(vladapt, rows):
    outcome = compared(vladapt, rows, "--tasks", "3", "--markdown")
    header, _, *lines = [line.strip("| ").split(" | ") for line in outcome.out.splitlines() if line.startswith("|")]
    assert header == ["tasks", "zero-shot", "transclip", "stat-a"]
    assert [line[0] for line in lines] == [*(kind.name for kind in TASKS), "seconds per fit"]
    assert "3 tasks of each kind; published results use 1000" in outcome.out
    found = table_of(outcome)
    assert len(found) == 3 * len(TASKS)
    assert {row["task_count"] for (_, kind), row in found.items() if kind != "all"} == {"3"}


def test_the_numbers_are_those_of_the_methods_on_each_batch(vladapt, rows):
    """Written out for one kind of batches, for a stream, and for all images at once."""
    found, arrays = table_of(compared(vladapt, rows, "--tasks", "2")), np.load(rows)
    labels = arrays["labels"]
    images = FeatureSet(torch.from_numpy(arrays["image_features"]))
    texts = torch.nn.functional.normalize(torch.from_numpy(arrays["text_features"]), dim=1)
    classifier = TextClassifier(texts, class_names=tuple(arrays["class_names"]), logit_scale=SCALE)

    def accuracy(name, batch, **options):
        some = images.select(torch.from_numpy(batch))
        adapter = build_adapter(name, **options)
        adapter.fit(None, classifier, unlabeled=some)
        return (adapter.logits(some).argmax(dim=1).numpy() == labels[batch]).mean()

    for kind in (TASKS[0], TASKS[1], TestStream("stream, low", "", 1, 0.1, 128)):
        tasks = list(kind.drawn(labels, 2, 1))
        for name, options in (("stat-a", {}), ("transclip", {"mode": "zero-shot"})):
            by_task = [np.mean([accuracy(name, batch, **options) for batch in task]) for task in tasks]
            assert float(found[name, kind.name]["accuracy"]) == pytest.approx(np.mean(by_task), abs=1e-6)
            assert float(found[name, kind.name]["accuracy_std"]) == pytest.approx(np.std(by_task), abs=1e-6)
    answers = classifier.logits(images.unit).argmax(dim=1).numpy()
    whole = np.mean([(answers[batch] == labels[batch]).mean() for task in tasks for batch in task])
    assert float(found["zero-shot", "stream, low"]["accuracy"]) == pytest.approx(whole, abs=1e-6)


def test_each_seed_has_answers_of_its_own():
    """Of methods that draw something when they answer (crops of wca) and are fitted once for all batches."""
    from vladapt.core.tasks.classification.protocol_contests import TasksContest

    contest = object.__new__(TasksContest)
    contest.test, contest.adapters, contest._answers = range(6), {}, {}
    contest._fitted_on = lambda name, rows, seed: np.full(len(rows), seed)
    batch = np.array([1, 3])
    assert [contest._answers_of("wca", batch, seed).tolist() for seed in (1, 2, 1)] == [[1, 1], [2, 2], [1, 1]]


def test_few_classes_are_another_task_than_all(vladapt, rows):
    """What the protocol is for: of all images at once the one method is better, of few classes the other."""
    found = table_of(compared(vladapt, rows, "--tasks", "8"))
    of_all, of_few = (
        [float(found[name, kind]["accuracy"]) for name in ("zero-shot", "stat-a", "transclip")]
        for kind in ("all", "1-4 of 64")
    )
    assert of_all[0] < of_all[1] < of_all[2]
    assert of_few[0] < of_few[2] < of_few[1]


def test_a_fit_classifies_all_test_images_at_once_without_a_label(vladapt, rows):
    outcome = vladapt("fit", "--features", rows, "--protocol", "transductive", "--adapter", "transclip", "--json")
    assert outcome.code == 0, outcome.err
    found = table_of(compared(vladapt, rows, "--tasks", "1"))
    assert outcome.json["shots"] == 0
    assert outcome.json["adapted"]["accuracy"] == pytest.approx(float(found["transclip", "all"]["accuracy"]))
    assert full_batches(np.arange(5), 2)[0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shots", "4"), "has no labelled images; omit --shots"),
        (("--splits", "3"), "--splits: --protocol transductive has its own test images; omit it"),
        (("--tasks", "0"), "--tasks 0: give a whole number of 1 or more"),
    ],
)
def test_what_cannot_be_is_one_line(vladapt, rows, arguments, said):
    given = ("--features", rows, "--protocol", "transductive", "--adapters", "stat-a", *arguments)
    refused = vladapt("compare", *given)
    assert refused.code != 0 and said in refused.err


def test_a_fit_without_a_method_takes_one_that_needs_no_labels(vladapt, rows):
    done = vladapt("fit", "--features", rows, "--protocol", "transductive")
    assert done.code == 0 and "Auto took" in done.out
    refused = vladapt("fit", "--features", rows, "--protocol", "transductive", "--adapter", "ape")
    assert refused.code != 0 and "--protocol transductive: adapter 'ape' learns from labelled images" in refused.err
    assert "stat-a" in refused.err and "--shots" not in refused.err


def test_under_a_protocol_the_method_is_what_is_scored(vladapt, rows):
    """Whether the images speak for it or not."""
    run = vladapt("fit", "--features", rows, "--protocol", "transductive", "--adapter", "onzeta", "--json").json
    assert run["adapter"] == "onzeta" and "judge" not in json.loads((Path(run["run"]) / "run.json").read_text())


@pytest.mark.parametrize(("seeds", "over"), [((1,), "over 2 tasks"), ((1, 2), "over 2 seeds, each with 2 tasks")])
def test_the_deviation_is_over_what_the_title_says(tmp_path, seeds, over):
    """Over the tasks of one seed; over seeds where there are several."""
    rows = [{"adapter": "stat-a", "shots": 0, "seed": seed, "tasks": "all", "task_count": 2, "accuracy": seed / 10,
             "accuracy_std": 0.3, "seconds": 0.0} for seed in seeds]  # fmt: skip
    summary = Comparison(rows, tmp_path, tmp_path, {}, []).summary()
    assert str(comparison_table(summary).title).endswith(over)
    assert summary[0]["std"] == pytest.approx(0.3 if len(seeds) == 1 else 0.05)


def test_tasks_are_of_this_protocol_and_labels_of_others(vladapt, rows):
    other = vladapt("compare", "--features", rows, "--adapters", "stat-a", "--shots", "0", "--tasks", "3")
    assert other.code != 0 and "--tasks: for --protocol transductive only" in other.err
    mixed = compared(vladapt, rows, "--tasks", "1", "--adapters", "stat-a,ape")
    assert "Refused: ape: --protocol transductive: adapter 'ape' learns from labelled images" in mixed.out
