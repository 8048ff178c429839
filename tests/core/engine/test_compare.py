"""compare: rows that grow fit by fit, a stopped comparison that goes on, every task that can be scored."""

from __future__ import annotations

import csv
import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest

import vladapt
from vladapt.core.engine.compare import STATE, TABLE, compare
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.contest import ClassificationContest

pytestmark = pytest.mark.usefixtures("in_toy_folder")
METHODS, SHOTS, SEEDS = ["linear-probe", "ape"], [1, 2], [1, 2]


@pytest.fixture
def rows(tmp_path):
    return features_file(tmp_path / "rows.npz")


def features_file(path, **changes):
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    arrays = {
        "image_features": (rng.normal(size=(60, 8)) + 3 * np.eye(8)[labels]).astype("f4"),
        "labels": labels,
        "text_features": np.eye(8)[:3].astype("f4"),
        "class_names": np.array(["red", "green", "blue"]),
        **changes,
    }
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return str(path)


def of_file(path, **flags):
    return resolve(flags={"features": path, **flags})


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def stop_after(monkeypatch, count):
    """A comparison that is stopped at its next fit."""
    score, done = ClassificationContest.score, []

    def scored(self, entry):
        if len(done) == count:
            raise KeyboardInterrupt
        done.append(entry)
        return score(self, entry)

    monkeypatch.setattr(ClassificationContest, "score", scored)
    return done


def test_a_stopped_comparison_keeps_its_rows_and_ends_as_if_unbroken(rows, monkeypatch):
    whole = compare(of_file(rows), METHODS, SHOTS, SEEDS, splits=1, out="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            compare(of_file(rows), METHODS, SHOTS, SEEDS, splits=1, out="stopped")
    assert len(table(Path("stopped", TABLE))) == 5
    assert len(json.loads(Path("stopped", STATE).read_text())["rows"]) == 5
    with pytest.raises(ConfigError, match="holds a comparison that was stopped; add --resume"):
        compare(of_file(rows), METHODS, SHOTS, SEEDS, splits=1, out="stopped")
    with pytest.raises(ConfigError, match="holds another comparison"):
        compare(of_file(rows), METHODS, [1, 4], SEEDS, splits=1, out="stopped", resume=True)
    with monkeypatch.context() as patch:
        done = stop_after(patch, 100)
        again = compare(of_file(rows), METHODS, SHOTS, SEEDS, splits=1, out="stopped", resume=True)
    assert len(done) == 16 - 5
    assert without_seconds(again.rows) == without_seconds(whole.rows)
    assert len(table(again.csv)) == 16 and not Path("stopped", STATE).exists()
    assert again.plot.is_file()


def test_there_must_be_something_to_resume(rows):
    with pytest.raises(ConfigError, match="--resume: give --out"):
        compare(of_file(rows), METHODS, resume=True)
    with pytest.raises(ConfigError, match="holds no comparison that was stopped"):
        compare(of_file(rows), METHODS, out="none", resume=True)


def test_a_recipe_that_says_shots_and_seed_compares_those(rows):
    found = compare(of_file(rows, shots=2, seed=7), ["ape"], splits=1, out="c")
    assert {(row["shots"], row["seed"]) for row in found.rows} == {(2, 7)}


def test_no_shots_are_for_methods_that_need_none(rows):
    sets = ["adapters.transclip.mode=zero-shot"]
    recipe = resolve(sets=sets, flags={"features": rows})
    found = compare(recipe, ["transclip", "ape"], [0, 2], [1], splits=1, out="c")
    assert {(row["adapter"], row["shots"]) for row in found.rows} == {
        ("zero-shot", 0), ("largest-class", 0), ("transclip", 0), ("zero-shot", 2), ("largest-class", 2),
        ("linear-probe", 2), ("transclip", 2), ("ape", 2),
    }  # fmt: skip
    assert found.refused == {} and any("transclip read all test images" in note for note in found.notes)


@pytest.mark.parametrize(
    ("shots", "who"), [([1, 4], ["transclip read"]), ([0, 1], ["transclip, auto (at 0 shots) read"])]
)
def test_a_note_names_the_methods_that_read_all_test_images_at_these_shots(shots, who):
    contest = object.__new__(ClassificationContest)
    contest.notes = []
    contest.note_readers(["transclip", "auto", "ape"], shots)
    assert [note.partition(" all test images")[0] for note in contest.notes] == who


def test_the_progress_names_the_data_and_counts_all_fits(rows, tmp_path):
    noise = np.random.default_rng(1).normal(size=(60, 8)).astype("f4")
    other = features_file(tmp_path / "other.npz", image_features=noise)
    told = []

    class Told(Reporter):
        def task(self, title, unit="images"):
            from contextlib import nullcontext

            return nullcontext(lambda done, total: told.append((title, done, total)))

    sources = [{"features": rows}, {"features": other}]
    found = compare(resolve(), ["ape"], [1], [1], sources=sources, splits=1, out="c", reporter=Told(quiet=True))
    counted = [each for each in told if each[0].startswith("Comparing")]
    assert counted == [(f"Comparing on {name}", n, 8) for n, name in enumerate(["rows"] * 4 + ["other"] * 4, start=1)]
    assert [row["data"] for row in found.rows] == ["rows"] * 4 + ["other"] * 4


def test_configs_are_compared_over_recipes_shots_and_seeds(small_clip_spec, tmp_path):
    for name, lr in (("slow", 1e-6), ("quick", 0.03)):
        (tmp_path / f"{name}.py").write_text(
            'vladapt = dict(domain="toy-boxes", task="detection")\nmodel = dict(type="ToyBoxModel", size=16)\n'
            f"optim_wrapper = dict(optimizer=dict(type='Adam', lr={lr}))\n"
            "train_cfg = dict(by_epoch=True, max_epochs=3)\n"
        )
    recipe = resolve(flags={"domain": "toy-boxes", "backbone": small_clip_spec})
    found = compare(recipe, recipes=["slow.py", "quick.py"], seeds=[1, 2], out="c")
    assert found.method == "recipe" and found.metric == "mean_error"
    assert [(row["recipe"], row["seed"]) for row in found.rows] == [
        ("slow.py", 1), ("slow.py", 2), ("quick.py", 1), ("quick.py", 2),
    ]  # fmt: skip
    means = {row["recipe"]: row["mean"] for row in found.summary()}
    assert means["quick.py"] < means["slow.py"]
    alone = vladapt.fit(resolve(config="quick.py", flags={"backbone": small_clip_spec, "seed": 2}))
    assert found.rows[3]["mean_error"] == pytest.approx(alone.metrics["adapted"]["mean_error"], rel=1e-6)


def test_backbones_are_compared_each_with_all_methods(small_clip_spec):
    recipe = resolve(flags={"domain": "toy-labels"})
    found = compare(recipe, ["linear-probe"], [1], [1], backbones=[small_clip_spec], splits=1, out="c")
    assert {row["backbone"] for row in found.rows} == {small_clip_spec}
    assert [row["adapter"] for row in found.rows] == ["zero-shot", "largest-class", "linear-probe"]


@pytest.mark.parametrize(
    ("flags", "axes", "says"),
    [
        ({"task": "pretraining", "out": "x"}, {}, "pre-trainings are not compared"),
        ({"task": "retrieval"}, {"shots": [1]}, "--shots: a comparison of retrieval varies --adapters, --backbones"),
        ({"domain": "toy-boxes"}, {"adapters": ["ape"]}, "--adapters: a comparison of detection of domain 'toy-boxes'"),
        ({"domain": "toy-labels"}, {"recipes": ["a"]}, "--recipes: a comparison of classification of domain"),
        ({"domain": "toy-labels"}, {}, "--adapters: none given"),
    ],
)
def test_what_a_task_does_not_compare_is_one_line(flags, axes, says):
    with pytest.raises(ConfigError, match=says):
        compare(resolve(flags=flags), **axes)


def test_rows_without_labels_are_classified_whole(tmp_path):
    path = features_file(tmp_path / "bare.npz", labels=None)
    with pytest.raises(CapabilityError, match="its rows have no labels; give --shots 0"):
        vladapt.fit(features=path, adapter="zero-shot")
    result = vladapt.fit(features=path, adapter={"name": "transclip", "mode": "zero-shot"}, shots=0)
    named = table(result.run / "predictions.csv")
    assert len(named) == 60 and {row["label"] for row in named} == {"red", "green", "blue"}
    right = [row["label"] == ["red", "green", "blue"][n % 3] for n, row in enumerate(named)]
    assert np.mean(right) > 0.9


def test_rows_that_are_all_for_testing_are_not_split_again(tmp_path):
    path = features_file(tmp_path / "tests.npz", split=np.array(["test"] * 60))
    result = vladapt.fit(features=path, adapter="zero-shot", shots=0)
    assert result.metrics["test_images"] == 60 and result.metrics["adapted"]["accuracy"] > 0.9
    with pytest.raises(CapabilityError, match="all its rows are test rows; give --shots 0"):
        vladapt.fit(features=path, adapter="ape", shots=4)


def test_data_sets_that_are_done_are_let_go(monkeypatch, tmp_path):
    """Each brings a backbone, and a comparison may have eleven."""
    from vladapt.core.tasks.classification.task import Classification

    drawn, made, alive, contest = np.random.default_rng(0), [], [], Classification.contest
    names = np.array(["a", "b"])
    for number in range(4):
        rows = {"image_features": drawn.normal(size=(60, 8)).astype("f4"), "labels": np.arange(60) % 2}
        np.savez(tmp_path / f"{number}.npz", class_names=names, text_features=rows["image_features"][:2], **rows)

    def watched(self, *arguments):
        gc.collect()
        alive.append(sum(each() is not None for each in made))
        new = contest(self, *arguments)
        made.append(weakref.ref(new))
        return new

    monkeypatch.setattr(Classification, "contest", watched)
    sources = [{"features": str(tmp_path / f"{number}.npz")} for number in range(4)]
    compare(resolve(), ["ridge"], shots=[2], seeds=[0], splits=1, sources=sources, out=tmp_path / "out")
    assert max(alive) <= 2 and alive[-1] < 3


def test_an_option_without_a_methods_name_is_of_every_method_that_has_it(rows):
    def scores(**flags):
        found = compare(of_file(rows, **flags), ["ridge", "proker", "ape"], [2], [1], splits=1).rows
        return without_seconds(found)

    shared = scores(adapter={"penalty": 5.0})
    assert shared == scores(adapters={"ridge": {"penalty": 5.0}, "proker": {"penalty": 5.0}}) != scores()
    mixed = scores(adapter={"penalty": 5.0}, adapters={"ridge": {"penalty": 0.1}})
    assert mixed == scores(adapters={"ridge": {"penalty": 0.1}, "proker": {"penalty": 5.0}}) != shared


def test_an_option_that_no_compared_method_has_is_refused(rows):
    with pytest.raises(UnknownNameError, match=r"adapter.penalti: not an option of ridge, ape; did you mean penalty"):
        compare(of_file(rows, adapter={"penalti": 1.0}), ["ridge", "ape"], [2], [1])


def test_a_method_that_one_set_refuses_runs_on_the_next(rows, tmp_path, monkeypatch):
    other = features_file(tmp_path / "other.npz")
    original, asked = ClassificationContest.fit, []

    def fit(self, name, prepared, shots, seed):
        if name == "ape" and prepared.data.name == "other":
            asked.append(len(shots.support))
            raise CapabilityError("these rows are not for ape")
        return original(self, name, prepared, shots, seed)

    monkeypatch.setattr(ClassificationContest, "fit", fit)
    sources = [{"features": other}, {"features": rows}]
    found = compare(of_file(other), ["ape", "ridge"], [1, 2], [1, 2], sources=sources, splits=1)
    ran = {(row["data"], row["adapter"], row["shots"]) for row in found.rows if row["adapter"] in ("ape", "ridge")}
    assert ran == {(data, "ridge", k) for data in ("other", "rows") for k in (1, 2)} | {
        ("rows", "ape", 1),
        ("rows", "ape", 2),
    }
    assert asked == [3, 6], "once at each number of shots"
    assert found.refused == {"ape": "these rows are not for ape (other at 1 shot, other at 2 shots)"}


def test_several_backbones_show_what_their_image_towers_cost(small_clip_spec):
    merging = f"{small_clip_spec}#merge=1"
    how = {"splits": 1, "out": "c"}
    made = compare(
        resolve(flags={"domain": "toy-labels"}), ["linear-probe"], [1], [1], backbones=[small_clip_spec, merging], **how
    )
    front = {row["backbone"]: row for row in made.front()}
    assert front.keys() == {small_clip_spec, merging}
    assert front[merging]["gflop"] < front[small_clip_spec]["gflop"]
    assert front[merging]["parameters"] == front[small_clip_spec]["parameters"] > 0
    best = max(row["mean"] for row in made.summary() if row["backbone"] == merging and row["shots"] == 1)
    assert front[merging]["score"] == best
    assert made.front()[0]["on_front"] and (made.plot.parent / "front.svg").is_file()
