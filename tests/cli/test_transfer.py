"""Tests on data that a fit never saw: on other classes, and on some of its own."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.engine.compare import compare
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.classification.transfer import TargetColumns

BIRDS, FISH = tuple(f"bird {i}" for i in range(6)), tuple(f"fish {i}" for i in range(4))
DIM = 16


def features_file(path: Path, names, texts, shift, splits, seed) -> Path:
    """Rows around the text of their class, all moved by `shift`."""
    drawn, labels, of = np.random.default_rng(seed), [], []
    for split, count in splits.items():
        labels += np.repeat(np.arange(len(names)), count).tolist()
        of += [split] * count * len(names)
    images = texts[labels] + 2 * drawn.normal(size=(len(labels), DIM)) + shift
    arrays = {"image_features": images, "text_features": texts}
    arrays = {name: each.astype(np.float32) for name, each in arrays.items()}
    np.savez(path, labels=np.array(labels), class_names=np.array(names), split=np.array(of), **arrays)
    return path


@pytest.fixture
def sets(tmp_path, monkeypatch) -> dict[str, Path]:
    """A source of six classes; a variant with three of them, in another order; a set of other classes."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    birds, fish, shift = drawn.normal(size=(6, DIM)), drawn.normal(size=(4, DIM)), drawn.normal(size=DIM)
    whole, some = {"train": 20, "val": 8, "test": 20}, [4, 1, 3]
    named = [BIRDS[i].upper() for i in some]
    return {
        "source": features_file(tmp_path / "source.npz", BIRDS, birds, shift, whole, 1),
        "variant": features_file(tmp_path / "variant.npz", named, birds[some], 1.5 * shift, {"test": 30}, 2),
        "fish": features_file(tmp_path / "fish.npz", FISH, fish, shift, whole, 3),
    }


def compared(sets, protocol, names, adapters, **how):
    recipe = resolve(flags={"protocol": protocol})
    sources = [{"features": str(sets[name])} for name in names]
    return compare(recipe, adapters, seeds=[1, 2], sources=sources, out="compared", **how)


def test_columns_are_found_by_name_and_those_of_one_name_in_order():
    logits = torch.tensor([[1.0, 5.0, 2.0, 9.0]])
    fitted = ("missile", "crane", "missile", "heron")
    every = TargetColumns.of_names(("Missile", "missile", "heron"), fitted, "variant")
    assert every(logits).tolist() == [[1, 2, 9]]
    one = TargetColumns.of_names(
        ("missile", "crane"), fitted, "variant"
    )  # which of both is not told: the higher counts
    assert one(logits).tolist() == [[2, 5]]
    with pytest.raises(DataError, match="variant: class 'hern' is not one of those of the fit; did you mean heron"):
        TargetColumns.of_names(("hern",), fitted, "variant")


def test_a_variant_is_scored_among_its_own_classes_only(sets, vladapt):
    """By hand: the scores of the three classes alone decide. Among all six fewer answers would be right."""
    found = compared(sets, "domain-generalization", ("source", "variant"), ["ape"])
    (row,) = [r for r in found.rows if (r["adapter"], r["seed"], r["data"]) == ("ape", 1, "variant")]
    outcome = vladapt("fit", "--features", sets["source"], "--adapter", "ape", "--protocol", "domain-generalization",
                      "--json")  # fmt: skip
    from vladapt import load_adapter

    arrays, run = np.load(sets["variant"]), Path(outcome.json["run"])
    adapter = load_adapter(run / "adapter.safetensors")
    logits = adapter.logits(torch.from_numpy(arrays["image_features"]))
    right = logits[:, [4, 1, 3]].argmax(dim=1).numpy() == arrays["labels"]
    among_all = logits.argmax(dim=1).numpy() == np.array([4, 1, 3])[arrays["labels"]]
    assert row["accuracy"] == pytest.approx(right.mean()) and among_all.mean() < right.mean()
    again = vladapt("eval", run, "--features", sets["variant"], "--json")
    assert again.json["adapted"]["accuracy"] == pytest.approx(row["accuracy"])
    assert again.json["baselines"]["linear_probe"]["accuracy"] > 1 / 3
    assert any("not calibrated" in note for note in again.json["notes"])


def test_the_source_is_fitted_on_and_is_not_part_of_the_mean(sets, vladapt):
    arguments = [part for name in ("source", "variant", "source") for part in ("--features", sets[name])]
    given = ("--protocol", "domain-generalization", "--adapters", "ape", "--seeds", "1", "--markdown")
    outcome = vladapt("compare", *arguments, *given)
    assert outcome.code == 0, outcome.err
    header, _, zero_shot, ape = (line.strip("| ").split(" | ") for line in outcome.out.splitlines()[:4])
    assert header[:5] == ["adapter", "source (source)", "variant", "source+", "target mean"]
    for row in (zero_shot, ape):
        variant, other, mean = (float(cell.split(" ±")[0]) for cell in row[2:5])
        assert mean == pytest.approx((variant + other) / 2, abs=0.1)
    table = Path(outcome.out.partition("Rows: ")[2].split()[0]).read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert {row["source"] for row in rows} == {"source"}
    assert [row["accuracy"] for row in rows if row["data"] == "source"] == [
        row["accuracy"] for row in rows if row["data"] == "source+"
    ]  # the same test images, tested as a target


def test_new_classes_are_scored_as_for_classes_says(sets, vladapt):
    """Written out: the fit of the run, moved to the names of the other set. Zero-shot is that of their texts."""
    found = compared(sets, "cross-dataset", ("source", "fish"), ["gda", "tip-adapter"])
    accuracy = {(r["adapter"], r["data"]): r["accuracy"] for r in found.rows if r["seed"] == 1}
    assert {row["adapter"] for row in found.rows} == {"zero-shot", "gda"}
    assert (
        "has no scores for classes it never saw; these have: gda, pair-projection, biomed-coop, cocoop, coop"
        in found.refused["tip-adapter"]
    )
    fitted = vladapt("fit", "--features", sets["source"], "--adapter", "gda", "--protocol", "cross-dataset", "--json")
    info = json.loads((Path(fitted.json["run"]) / "run.json").read_text())
    assert any("vladapt eval RUN --data DIR" in note for note in info["notes"])
    assert (len(info["splits"]["support"]), len(info["splits"]["val"])) == (16 * 6, 4 * 6)
    from vladapt import load_adapter
    from vladapt.core.contracts.features import TextClassifier

    arrays, fit = np.load(sets["fish"]), load_adapter(Path(fitted.json["run"]) / "adapter.safetensors")
    tested, labels = arrays["split"] == "test", arrays["labels"]
    images = torch.from_numpy(arrays["image_features"][tested])
    texts = torch.nn.functional.normalize(torch.from_numpy(arrays["text_features"]), dim=1)
    moved = fit.for_classes(None, FISH, classifier=TextClassifier(texts, class_names=FISH))
    right = moved.logits(images).argmax(dim=1).numpy() == labels[tested]
    assert accuracy["gda", "fish"] == pytest.approx(right.mean())
    assert accuracy["zero-shot", "fish"] == pytest.approx(
        ((images @ texts.T).argmax(dim=1).numpy() == labels[tested]).mean()
    )
    again = vladapt("eval", fitted.json["run"], "--features", sets["fish"], "--json")
    assert again.json["adapted"]["accuracy"] == pytest.approx(accuracy["gda", "fish"])
    assert "linear_probe" not in again.json["baselines"]


def test_fits_of_a_stopped_comparison_are_made_again(sets, monkeypatch):
    from vladapt.core.tasks.classification.protocol_contests import TargetContest

    names, methods = ("source", "variant"), ["ape", "gda"]
    whole = compared(sets, "domain-generalization", names, methods).rows
    score = TargetContest.score

    def stop(self, entry):
        if entry["adapter"] == "gda":
            raise KeyboardInterrupt
        return score(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(TargetContest, "score", stop)
        with pytest.raises(KeyboardInterrupt):
            compare(resolve(flags={"protocol": "domain-generalization"}), methods, seeds=[1, 2], out="stopped",
                    sources=[{"features": str(sets[name])} for name in names])  # fmt: skip
    again = compare(resolve(flags={"protocol": "domain-generalization"}), methods, seeds=[1, 2], out="stopped",
                    resume=True, sources=[{"features": str(sets[name])} for name in names])  # fmt: skip
    plain = [{key: value for key, value in row.items() if key != "seconds"} for row in whole]
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in again.rows] == plain


@pytest.mark.parametrize(
    ("protocol", "names", "adapters", "how", "error", "said"),
    [
        ("cross-dataset", ("source",), ["gda"], {}, ConfigError, "give --data at least twice;"),
        ("cross-dataset", ("source", "fish"), ["ape"], {}, CapabilityError, "these have: gda"),
        ("cross-dataset", ("source", "fish"), ["gda"], {"splits": 3}, ConfigError, "--splits: .* omit it"),
        ("domain-generalization", ("source", "fish"), ["ape"], {}, DataError, "class 'fish 0' is not one of those"),
        ("domain-generalization", ("source", "variant"), ["stat-a"], {}, CapabilityError, "--protocol transductive"),
    ],
)
def test_what_cannot_be_is_one_line(sets, protocol, names, adapters, how, error, said):
    with pytest.raises(error, match=said):
        found = compared(sets, protocol, names, adapters, **how)
        raise error(next(iter(found.refused.values())))


def test_features_of_two_backbones_are_refused(sets):
    for name, backbone in (("source", "one"), ("fish", "another")):
        np.savez(sets[name], **dict(np.load(sets[name])), backbone=np.array(backbone))
    with pytest.raises(CapabilityError, match=r"fish.npz: made by backbone another, .*source.npz by one; give"):
        compared(sets, "cross-dataset", ("source", "fish"), ["gda"])


def test_a_fit_that_no_other_data_could_test_is_refused(sets, vladapt):
    refused = vladapt("fit", "--features", sets["source"], "--adapter", "ape", "--protocol", "cross-dataset")
    assert refused.code != 0 and "adapter 'ape' has no scores for classes it never saw; these have:" in refused.err


@pytest.fixture
def photos(tmp_path) -> dict[str, Path]:
    """Two folders of drawn photos, of other classes each."""
    drawn, made = np.random.default_rng(0), {}
    for name, classes in (("birds", ("crane", "heron", "swift")), ("fish", ("carp", "pike"))):
        for label, of in enumerate(classes):
            folder = tmp_path / name / of
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = (70 * label + drawn.integers(0, 120, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        made[name] = tmp_path / name
    return made


def test_a_learned_prompt_is_tested_on_other_photos(photos, small_clip_spec, vladapt):
    """The run and the comparison give the same answers; all photos of the other folder are tested, as none taught."""
    how = ("--backbone", small_clip_spec, "--protocol", "cross-dataset", "--set", "adapters.coop.epochs=2")
    of_photos = ("--data", photos["birds"], "--data", photos["fish"], "--adapters", "coop")
    outcome = vladapt("compare", *of_photos, "--shots", "2", "--seeds", "1", *how, "--json")
    assert outcome.code == 0, outcome.err
    accuracy = {(row["adapter"], row["data"]): row["accuracy"] for row in outcome.json["rows"]}
    assert set(accuracy) == {(name, data) for name in ("zero-shot", "coop") for data in ("birds", "fish")}
    fitted = vladapt("fit", "--data", photos["birds"], "--adapter", "coop", "--shots", "2", *how, "--json")
    assert fitted.code == 0, fitted.err
    again = vladapt("eval", fitted.json["run"], "--data", photos["fish"], "--json")
    assert again.code == 0, again.err
    assert again.json["test_images"] == 24
    assert again.json["adapted"]["accuracy"] == accuracy["coop", "fish"]
    assert again.json["zero_shot"]["accuracy"] == accuracy["zero-shot", "fish"]
    assert (Path(again.json["out"]) / "report.html").is_file()
    lines = (Path(again.json["out"]) / "predictions.csv").read_text().splitlines()
    assert len(lines) == 25 and all(line.split(",")[2] in ("carp", "pike") for line in lines[1:])


def test_photos_that_are_all_for_testing_are_tested_whole(photos, small_clip_spec, vladapt):
    """As a variant of ImageNet comes: a folder "test" and nothing else."""
    variant = photos["birds"].parent / "variant"
    (variant / "test").mkdir(parents=True)
    for name in ("crane", "swift"):
        (photos["birds"] / name).rename(variant / "test" / name)
    source = photos["birds"].parent / "source"
    drawn = np.random.default_rng(1)
    for label, name in enumerate(("crane", "heron", "swift")):
        (source / name).mkdir(parents=True)
        for number in range(12):
            pixels = (70 * label + drawn.integers(0, 120, (16, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(source / name / f"{number}.png")
    how = ("--backbone", small_clip_spec, "--protocol", "domain-generalization", "--shots", "2")
    fitted = vladapt("fit", "--data", source, "--adapter", "ridge", *how, "--json")
    assert fitted.code == 0, fitted.err
    again = vladapt("eval", fitted.json["run"], "--data", variant, "--json")
    assert again.json["test_images"] == 24
    both = ("--data", source, "--data", variant, "--adapters", "ridge", "--seeds", "0")
    outcome = vladapt("compare", *both, *how)
    rows = list(csv.DictReader(Path(outcome.out.partition("Rows: ")[2].split()[0]).read_text().splitlines()))
    (row,) = [row for row in rows if (row["adapter"], row["data"]) == ("ridge", "variant")]
    assert float(row["accuracy"]) == again.json["adapted"]["accuracy"]
    assert "Note:" in outcome.out and "made anew" not in outcome.out


def test_a_file_of_test_rows_alone_is_evaluated(sets, vladapt):
    """Of a run without a protocol too: nothing is drawn from it."""
    run = vladapt("fit", "--features", sets["source"], "--adapter", "ape", "--shots", 4, "--json").json["run"]
    arrays = dict(np.load(sets["source"]))
    tested = arrays["split"] == "test"
    rows = {name: arrays[name][tested] for name in ("image_features", "labels", "split")}
    np.savez("tested.npz", **{**arrays, **rows})
    again = vladapt("eval", run, "--features", "tested.npz", "--json")
    assert again.code == 0, again.err
    assert again.json["adapted"] == vladapt("eval", run, "--json").json["adapted"]
