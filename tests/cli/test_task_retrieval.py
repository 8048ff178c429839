"""`--task retrieval` in `fit`, `eval` and `compare`: pairs in, a run whose folder is a backbone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt.core.runs.folder import Run

COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220), "yellow": (230, 220, 60)}


@pytest.fixture(scope="module")
def pairs_csv(tmp_path_factory) -> Path:
    """48 images whose captions name a colour and a side; the first 8 are for testing."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for i in range(48):
        colour, side = list(COLOURS)[i % 4], ("left", "right")[i // 4 % 2]
        pixels = np.random.default_rng(i).integers(0, 60, (20, 20, 3)).astype(np.uint8)
        pixels[:, :10] = COLOURS[colour] if side == "left" else pixels[:, :10]
        pixels[:, 10:] = COLOURS[colour] if side == "right" else pixels[:, 10:]
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows.append([f"{i}.png", f"a {colour} area at the {side}", "test" if i < 8 else "val" if i < 16 else "train"])
    with (folder / "pairs.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "caption", "split"], *rows])
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def generic(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("generic")
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (folder / name).mkdir()
        for i in range(2):
            Image.new("RGB", (16, 16), colour).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def common(pairs_csv, small_clip_spec):
    return ["--task", "retrieval", "--data", pairs_csv, "--backbone", small_clip_spec, "--device", "cpu"]


@pytest.fixture
def options(common, generic):
    return [*common, "--generic", generic, "--epochs", 8, "--batch-size", 16, "--lr", 2e-3]


def test_a_fit_raises_retrieval_and_leaves_a_backbone(vladapt, options):
    done = vladapt("fit", *options, "--adapter", "full", "--json")
    assert done.code == 0, done.err
    result = done.json
    assert result["task"] == "retrieval" and result["shots"] == 32
    assert result["adapted"]["text_to_image/r5"] > result["zero_shot"]["text_to_image/r5"]
    assert {"before", "after"} <= set(result["generic"])
    run = Path(result["run"])
    assert {"run.json", "metrics.json", "adapter.safetensors", "model.safetensors", "report.html", "log.txt"} <= {
        path.name for path in run.iterdir()
    }
    assert not (run.parent / ".resume").exists()
    again = vladapt("eval", run, "--json")
    assert again.code == 0, again.err
    assert again.json["adapted"] == pytest.approx(result["adapted"])
    assert again.json["zero_shot"] == pytest.approx(result["zero_shot"])
    on_val = vladapt("eval", run, "--split", "val")
    assert "text to image: R@1" in on_val.out
    images = len(Run.open(run).info["digests"]["val"])
    assert on_val.out.splitlines()[0].startswith(f"{images} of the {images} images were in the fit.")
    assert again.json["in_fit"] == 0 and again.json["in_fit_words"].startswith("None of the ")
    page = (Path(again.json["out"]) / "report.html").read_text()
    assert "Report of one evaluation" in page and again.json["in_fit_words"] in page
    refused = vladapt("predict", run, run / "x.png")
    assert refused.code == 1 and "names no classes" in refused.error
    as_backbone = vladapt(
        "eval", vladapt("fit", *options, "--backbone", run, "--adapter", "lora", "--json").json["run"], "--json"
    )
    assert as_backbone.json["zero_shot"] == pytest.approx(result["adapted"])


def test_what_it_prints(vladapt, options):
    done = vladapt("fit", *options, "--adapter", "lit", "--epochs", 1)
    assert done.code == 0, done.err
    for words in ("image to text: R@1", "Text to image:", "Note: Generic vocabulary", "Run:", "Report:"):
        assert words in done.out, words
    assert "Fitting lit on 32 pairs" in done.err


def test_a_fit_takes_several_sources_and_is_scored_on_each(vladapt, options, pairs_csv, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    rows = list(csv.reader(pairs_csv.read_text().splitlines()))
    chosen = [[f"{pairs_csv.parent / row[0]}", *row[1:]] for row in (rows[1:5] + rows[9:13] + rows[17:41])]
    for row in chosen:
        Image.open(row[0]).rotate(90).save(other / Path(row[0]).name)
    with (other / "other.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([rows[0], *([Path(row[0]).name, *row[1:]] for row in chosen)])
    more = ["--data", f"{other / 'other.csv'}=2", "--samples", 32, "--epochs", 1]
    done = vladapt("fit", *options, *more, "--adapter", "full", "--json")
    assert done.code == 0, done.err
    sources = done.json["sources"]
    assert [row["name"] for row in sources] == ["pairs", "other"] and sources[1]["shares"] == pytest.approx([2 / 3])
    assert [row["metrics"]["test_images"] for row in sources] == [8, 4] and done.json["test_images"] == 12
    assert sum(row["samples"] for row in sources) == 32 and sources[0]["loss"] is not None
    again = vladapt("eval", done.json["run"], "--json")
    assert again.code == 0 and again.json["adapted"] == pytest.approx(done.json["adapted"])
    one = vladapt("fit", "--data", pairs_csv, "--data", other, "--adapter", "zero-shot")
    assert one.code == 2 and "takes one data set; give one" in one.error


@pytest.mark.parametrize("change", [["--loss", "siglip"], ["--seed", 5], ["--adapter", "lora"]], ids=str)
def test_each_option_changes_the_scores(vladapt, options, change):
    plain = vladapt("fit", *options, "--adapter", "full", "--epochs", 2, "--json").json["adapted"]
    other = vladapt("fit", *options, "--adapter", "full", "--epochs", 2, *change, "--json").json["adapted"]
    assert plain["text_to_image/mean_rank"] != other["text_to_image/mean_rank"] or plain != other


@pytest.mark.thorough
def test_methods_are_compared(vladapt, common, tmp_path):
    named = [
        "--adapters",
        "full,lora,tip-adapter",
        "--seeds",
        "1,2",
        "--set",
        "adapter.name=full",
        "--set",
        "adapter.epochs=1",
    ]
    done = vladapt("compare", *common, *named, "--batch-size", 16, "--out", "c", "--json")
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert [(row["adapter"], row["seed"]) for row in rows] == [
        *(("zero-shot", seed) for seed in (1, 2)),
        *(("full", seed) for seed in (1, 2)),
        *(("lora", seed) for seed in (1, 2)),
    ]
    assert "cannot learn from pairs" in done.json["refused"]["tip-adapter"]
    header = (tmp_path / "c" / "compare.csv").read_text().splitlines()[0].split(",")
    assert header[:4] == ["adapter", "shots", "seed", "accuracy"] and "text_to_image/r1" in header
    assert (tmp_path / "c" / "accuracy_over_shots.png").is_file()


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (["--adapter", "tip-adapter"], 1, "use full, lora or lit"),
        (["--adapter", "zero-shot"], 1, "use full, lora or lit"),
        (["--adapter", "full", "--shots", 4], 2, "retrieval trains on all training pairs; omit it"),
        (["--adapter", "full", "--shots", 16], 2, "--shots 16: counts images per class"),
        (["--adapter", "full", "--classes", "a,b"], 2, "has no classes"),
        (["--adapter", "full", "--data", "nothing"], 1, "nothing"),
        (["--adapter", "full", "--domain", "natural"], 2, "has classification"),
        (["--adapter", "full", "--loss", "cross-entropy"], 1, "'labels'"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_told_in_one_line(vladapt, options, change, code, words):
    given = [*options[:2], *options[4:]] if "--data" in change else options
    done = vladapt("fit", *given, *change)
    assert done.code == code, done.err
    assert words in done.err.strip().splitlines()[-1]


def test_a_domain_with_captions_gives_its_pairs(tmp_path, small_clip_spec, monkeypatch):
    """What the toy domain of captions owns it does itself; one that only reads them is trained here."""
    import vladapt
    from vladapt import Captions, Domain, DomainData, Item

    class Notes(Domain):
        name, tasks = "notes", ("retrieval",)

        def read(self, path, task, **options):
            return self.sample(task)

        def sample(self, task):
            items = [Item(f"n{i}", f"/gone/{i}", target=Captions((f"grey {i}",)), group=str(i)) for i in range(20)]
            return DomainData(items, (), lambda item: np.full((20, 20, 3), 10 * int(item.id[1:]), np.uint8), "captions")

        def templates(self, task):
            return ["{}"]

    monkeypatch.chdir(tmp_path)
    result = vladapt.fit(
        domain=Notes(),
        task="retrieval",
        backbone=small_clip_spec,
        device="cpu",
        adapter={"name": "full", "epochs": 1},
        batch_size=8,
    )
    assert result.metrics["test_images"] >= 1
    assert json.loads((result.run / "run.json").read_text())["domain"] == "notes"
