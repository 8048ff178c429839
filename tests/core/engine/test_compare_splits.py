"""compare over splits: the spread over test sets, baselines, tests that know how splits overlap, and resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.commands.tables import comparison_cells, comparison_table, comparison_tests
from vladapt.core.engine.compare import STATE, TABLE, compare
from vladapt.core.engine.comparison import Comparison
from vladapt.core.errors import ConfigError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.classification.contest import ClassificationContest

from .test_compare import features_file, stop_after, table, without_seconds


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def noisy_file(path, noise=2.0, counts=(20, 20, 20), **changes):
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), counts)
    images = rng.normal(size=(len(labels), 8)) * noise + 3 * np.eye(8)[labels]
    return features_file(path, image_features=images.astype("f4"), labels=labels, **changes)


def of_file(path, **flags):
    return resolve(flags={"features": path, **flags})


def test_a_small_test_set_is_split_ten_times_each_with_a_draw_of_its_own(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], out="c")
    of_gda = [row for row in found.rows if row["adapter"] == "gda"]
    assert [(row["split"], row["seed"]) for row in of_gda] == [(n, n + 1) for n in range(10)]
    assert len({row["accuracy"] for row in of_gda}) > 3
    assert any("Compared on 10 splits" in note and "--splits 1" in note for note in found.notes)
    assert list(table(found.csv)[0])[:5] == ["adapter", "shots", "seed", "split", "accuracy"]
    summary = {row["adapter"]: row for row in found.summary()}
    assert list(summary) == ["zero-shot", "largest-class", "linear-probe", "gda"]
    assert summary["gda"]["splits"] == 10 and summary["gda"]["std"] > 0
    assert summary["gda"]["std"] == pytest.approx(np.std([row["accuracy"] for row in of_gda]))
    assert summary["largest-class"]["mean"] == pytest.approx(1 / 3)
    assert comparison_table(found.summary()).title.startswith("accuracy ↑ in %, mean ± std over 10 splits of the data")


def test_one_split_says_that_it_is_one(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], [1, 2], splits=1, out="c")
    assert "split" not in found.rows[0] and "splits" not in found.tests()[0]
    assert any("Compared on one test set of 18 images" in note for note in found.notes)
    assert "2 seeds on one test set" in comparison_table(found.summary()).title


def test_given_seeds_are_all_drawn_on_each_split(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], [4, 5], splits=3, out="c")
    of_gda = [(row["split"], row["seed"]) for row in found.rows if row["adapter"] == "gda"]
    assert of_gda == [(split, seed) for split in range(3) for seed in (4, 5)]
    assert {row["splits"] for row in found.summary()} == {3}
    assert found.tests()[0]["splits"] == 3


def test_the_first_split_is_that_of_a_fit(tmp_path):
    path = noisy_file(tmp_path / "rows.npz")
    one, three = (compare(of_file(path), ["gda"], [2], [1], splits=n, out=f"c{n}") for n in (1, 3))
    first = [row for row in three.rows if row["split"] == 0]
    assert [row["accuracy"] for row in first] == [row["accuracy"] for row in one.rows]


def test_splits_that_the_data_bring_are_kept_and_that_is_said(tmp_path):
    split = np.array((["train"] * 6 + ["val"] * 2 + ["test"] * 12) * 3)
    path = noisy_file(tmp_path / "rows.npz", split=split)
    found = compare(of_file(path), ["gda"], [2], [1, 2], splits=5, out="c")
    assert "split" not in found.rows[0] and {row["seed"] for row in found.rows} == {1, 2}
    assert any("never split again:" in note for note in found.notes)


def test_folds_test_every_image_once(tmp_path, monkeypatch):
    seen = []
    draw = ClassificationContest._draw

    def drawn(self, prepared, entry):
        seen.append((entry["split"], tuple(item.id for item in prepared.data.split("test"))))
        return draw(self, prepared, entry)

    monkeypatch.setattr(ClassificationContest, "_draw", drawn)
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], folds=4, out="c")
    tested = [name for _, names in sorted(set(seen)) for name in names]
    assert sorted(tested) == sorted(map(str, range(60)))
    assert {row["split"] for row in found.rows} == {0, 1, 2, 3}
    assert found.test_over_train == {"": pytest.approx(1 / 3)}


def test_methods_are_tested_against_the_best_baseline(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz", noise=3.0)), ["gda", "ape"], [2], splits=6, out="c")
    means = {row["adapter"]: row["mean"] for row in found.summary()}
    best = max(("zero-shot", "largest-class", "linear-probe"), key=means.get)
    tests = {each["adapter"]: each for each in found.tests()}
    assert set(tests) == {"gda", "ape"} and {each["baseline"] for each in tests.values()} == {best}
    for name, each in tests.items():
        assert each["difference"] == pytest.approx(means[name] - means[best])
        assert each["p_value"] <= each["p_holm"] <= 1
        low, high = each["interval"]
        assert low <= each["difference"] <= high and (low > 0 or high < 0) == (each["p_value"] < 0.05)
    for each in tests.values():
        low, high = each["interval"]
        assert (each["p_holm"] < 0.05) == (not low <= 0 <= high)
    lines = comparison_tests(found.tests())
    assert f"{best}, the best baseline" in lines[0] and "over 6 splits" in lines[-1]
    assert "95 % intervals and p values, both adjusted for 2 methods (Holm)" in lines[-1]


def test_fewer_than_five_splits_have_scores_alone(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz", noise=3.0)), ["gda"], [2], splits=3, out="c")
    (test,) = found.tests()
    assert (test["splits"], test["interval"], test["p_value"], test["p_holm"]) == (3, None, None, None)
    gain, why = comparison_tests([test])
    assert "p =" not in gain and " to " not in gain
    assert why == "Fewer than 5 splits are too few for intervals and tests."


def test_a_single_fit_has_no_spread(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], [1], splits=1, out="c")
    assert {row["std"] for row in found.summary()} == {None}
    table = comparison_table(found.summary())
    assert str(table.title).startswith("accuracy ↑ in %, 1 seed on one test set")
    assert not any("±" in cell for row in comparison_cells(found.summary()) for cell in row)


def test_on_one_test_set_methods_are_tested_image_by_image(tmp_path):
    path = noisy_file(tmp_path / "rows.npz", counts=(200, 200, 200), noise=3.0)
    found = compare(of_file(path), ["gda", "linear-probe"], [2], [1, 2], splits=1, out="c")
    means = {row["adapter"]: row["mean"] for row in found.summary()}
    (test,) = found.tests()
    assert test["adapter"] == "gda" and test["metric"] == "accuracy" and test["test_images"] > 100
    assert test["difference"] == pytest.approx(means["gda"] - means[test["baseline"]])
    low, high = test["interval"]
    assert low < test["difference"] < high and 0 < test["p_holm"] <= 1
    assert f"McNemar’s test on the {test['test_images']} test images" in comparison_tests([test])[-1]


def test_several_labels_are_compared_with_guessing_by_their_auroc(tmp_path):
    """Noise, named by labels: zero-shot may lie below guessing, which then is a baseline."""
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 2)) < 0.4).astype("f4")
    features = rng.normal(size=(500, 8)) + 0.5 * labels @ np.eye(8)[:2]
    path, names = tmp_path / "labels.npz", np.array(["effusion", "mass"])
    np.savez(path, image_features=features.astype("f4"), labels=labels, text_features=-np.eye(8)[:2], class_names=names)
    for splits in (1, 5):
        found = compare(of_file(path), ["tip-adapter"], [4], [1], splits=splits, out=f"c{splits}")
        assert found.metric == "auroc" and {row["adapter"] for row in found.rows} >= {"guessing", "tip-adapter"}
        (test,) = found.tests()
        low, high = test["interval"]
        assert test["baseline"] in ("guessing", "linear-probe", "zero-shot") and low < test["difference"] < high
        lines = comparison_tests(found.tests())
        assert "points" not in lines[0] and f"{test['difference']:+.3f}".replace("-", "−") in lines[0]
    title = str(comparison_table(found.summary()).title)
    assert title.startswith("macro AUROC ↑, mean ± std over 5 splits")


def test_a_comparison_calibrates_nothing_and_says_so_in_its_columns(tmp_path):
    found = compare(of_file(noisy_file(tmp_path / "rows.npz")), ["gda"], [2], [1], splits=1, out="c")
    columns = table(found.csv)[0]
    assert "ece_uncalibrated" in columns and "ece" not in columns


def test_unequal_classes_are_compared_by_balanced_accuracy(tmp_path):
    path = noisy_file(tmp_path / "rows.npz", counts=(60, 20, 10))
    found = compare(of_file(path), ["gda"], [2], [1], splits=2, out="c")
    assert found.metric == "balanced_accuracy"
    assert any("Balanced accuracy decides" in note for note in found.notes)
    assert {row["adapter"]: row["mean"] for row in found.summary()}["largest-class"] == pytest.approx(1 / 3)


def test_a_comparison_over_splits_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    path = noisy_file(tmp_path / "rows.npz")
    whole = compare(of_file(path), ["gda"], [1, 2], splits=3, out="whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(KeyboardInterrupt):
            compare(of_file(path), ["gda"], [1, 2], splits=3, out="stopped")
    assert len(table(Path("stopped", TABLE))) == 9
    assert len(json.loads(Path("stopped", STATE).read_text())["rows"]) == 9
    with monkeypatch.context() as patch:
        done = stop_after(patch, 100)
        again = compare(of_file(path), ["gda"], [1, 2], splits=3, out="stopped", resume=True)
    assert len(done) == 24 - 9
    assert without_seconds(again.rows) == without_seconds(whole.rows)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"splits": 0}, "--splits 0: give a whole number of 1 or more"),
        ({"folds": 1}, "--folds 1: give a whole number of 2 or more"),
        ({"splits": 2, "folds": 2}, "--splits and --folds: give one of them"),
    ],
)
def test_what_is_no_number_of_splits_is_one_line(given, says):
    with pytest.raises(ConfigError, match=says):
        compare(resolve(), ["gda"], **given)


def test_images_are_encoded_once_whatever_their_role(small_clip_spec, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for name in ("red", "green", "blue"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 255, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{number}.png")
    computed = []
    score = ClassificationContest.score

    def counted(self, entry):
        row = score(self, entry)
        computed.append(self.prepared.counts.computed)
        return row

    monkeypatch.setattr(ClassificationContest, "score", counted)
    recipe = resolve(flags={"domain": "medical", "backbone": small_clip_spec, "data": str(tmp_path / "set")})
    found = compare(recipe, ["linear-probe"], [2], splits=4, out="c")
    assert {row["split"] for row in found.rows} == {0, 1, 2, 3}
    assert 0 < computed[0] < max(computed) <= 36


def test_methods_that_train_towers_are_split_three_times(tmp_path):
    from vladapt.core.tasks.classification.contest import RepeatedSplits

    task_recipe = of_file(noisy_file(tmp_path / "rows.npz"), adapter="ape", shots=2)
    prepared = prepared_of(task_recipe)
    assert RepeatedSplits.of(prepared, 0, None, None, towers=True).count == 3
    assert RepeatedSplits.of(prepared, 0, None, None, towers=False).count == 10
    large = prepared_of(of_file(noisy_file(tmp_path / "large.npz", counts=(400, 400, 400)), adapter="ape", shots=2))
    assert RepeatedSplits.of(large, 0, None, None, towers=False).count == 1
    assert RepeatedSplits.of(large, 0, 2, None, towers=False).count == 2


def prepared_of(recipe):
    from vladapt.core.recipes.resolve import task_of
    from vladapt.core.runtime.progress import Reporter

    task = task_of(recipe)
    return task.prepared(task.settled(recipe), Reporter(quiet=True))


def test_several_data_sets_have_their_mean_where_a_method_ran_on_all():
    def row(adapter, data, shots, mean):
        return {
            "adapter": adapter,
            "shots": shots,
            "data": data,
            "metric": "accuracy",
            "mean": mean,
            "std": 0.01,
            "seeds": 3,
            "splits": 1,
            "seconds": 0.1,
        }

    rows = [row("ape", "pets", 4, 0.5), row("ape", "dtd", 4, 0.7), row("gda", "pets", 4, 0.4)]
    header, ape, gda = comparison_cells(rows)
    assert header == ["adapter", "pets", "dtd", "mean", "seconds per fit"]
    assert ape[3] == "60.0" and gda[3] == "–"
    header, ape, _ = comparison_cells([*rows, row("ape", "pets", 1, 0.2), row("ape", "dtd", 1, 0.3)])
    assert header[-3:-1] == ["mean 1 shot", "mean 4 shots"] and ape[-3:-1] == ["25.0", "60.0"]
    assert comparison_cells(rows[:1])[0] == ["adapter", "pets 4 shots", "seconds per fit"]


def test_each_data_set_says_which_test_it_had():
    def tested(data, **how):
        found = {"adapter": "ape", "shots": 4, "data": data, "metric": "accuracy", "baseline": "zero-shot"}
        return {**found, "difference": 0.1, "interval": [0.0, 0.2], "p_value": 0.01, "p_holm": 0.01, **how}

    (*_, words) = comparison_tests(
        [tested("pets", splits=10), tested("dtd", test_images=300), tested("sun", splits=10)]
    )
    assert "pets, sun: corrected resampled t-test over 10 splits" in words
    assert "dtd: McNemar’s test on the 300 test images" in words
    assert comparison_tests([tested("pets", splits=10)])[-1].startswith(
        "In brackets: 95 % intervals and p values: corrected"
    )


def test_each_backbone_has_a_column_of_its_own(tmp_path):
    rows = [
        {"adapter": "ape", "shots": 4, "seed": 1, "accuracy": value, "seconds": 0.1, "backbone": backbone}
        for backbone, value in (("embedded", 0.2), ("biomedclip", 0.8))
    ]
    found = Comparison(rows, tmp_path / "a.csv", tmp_path / "a.png", {}, [])
    header, ape = comparison_cells(found.summary())
    assert header == ["adapter", "embedded", "biomedclip", "seconds per fit"]
    assert ape[1:3] == ["20.0", "80.0"]
