"""benchmarks/published.py: which comparisons it runs, that it goes on, and how it counts; on tiny sets."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_cache")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def published(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    monkeypatch.chdir(tmp_path)
    import published

    return published


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory, drawn_lands) -> Path:
    return drawn_lands(tmp_path_factory.mktemp("lands") / "photos", images=12)


def lines(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "published.csv").read_text().splitlines()))


@pytest.mark.thorough
def test_it_runs_what_was_published_and_writes_the_difference(published, eurosat, small_clip_spec, capsys):
    given = ["--sets", f"eurosat={eurosat}", "--backbone", small_clip_spec, "--as", "openai-rn50", "--seeds", "1,2",
             "--methods", "tip-adapter,clip-adapter", "--out", "out"]  # fmt: skip
    published.main(given)
    (tip, clip) = lines(Path("out"))
    assert (tip["protocol"], tip["method"], tip["shots"], tip["published"]) == (
        "full-val",
        "tip-adapter",
        "16",
        "70.54",
    )
    assert (clip["protocol"], clip["method"], clip["published"]) == ("coop", "clip-adapter", "84.43")
    for line in (tip, clip):
        rows = csv.DictReader((Path("out") / line["protocol"] / "eurosat" / line["method"] / "compare.csv").open())
        values = [float(row["accuracy"]) for row in rows if row["adapter"] == line["method"]]
        assert len(values) == 2 and float(line["ours"]) == pytest.approx(100 * np.mean(values))
        assert float(line["difference"]) == pytest.approx(float(line["ours"]) - float(line["published"]))
    table = (Path("out") / "published.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip() and "| full-val | eurosat | tip-adapter | 16 |" in table


def test_a_stopped_rerun_goes_on_and_a_whole_one_is_read(published, eurosat, small_clip_spec, monkeypatch):
    from vladapt.core.tasks.classification.contest import ClassificationContest

    given = ["--sets", f"eurosat={eurosat}", "--backbone", small_clip_spec, "--as", "openai-rn50", "--seeds", "1,2",
             "--methods", "tip-adapter", "--out", "out"]  # fmt: skip
    score, done = ClassificationContest.score, []

    def counted(self, entry):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(entry)
        return score(self, entry)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationContest, "score", counted)
        with pytest.raises(KeyboardInterrupt):
            published.main(given)
    published.main(given)
    first = lines(Path("out"))
    assert len(first) == 1
    with monkeypatch.context() as patch:
        patch.setattr(published, "compare", None)  # nothing is run again
        published.main(given)
    assert lines(Path("out")) == first


def test_only_what_the_sets_can_meet(published):
    rows = published.published_rows("openai-rn50", {"dtd": "d"}, None, None)
    assert {(row["method"], *row["accuracy"]) for row in rows} == {
        ("tip-adapter", "16"), ("tip-adapter-f", "16"), ("clip-adapter", "16"),
    }  # fmt: skip
    assert published.published_rows("openai-rn50", {"dtd": "d"}, None, [8]) == []
    assert published.published_rows("openai-vit-b-32", {"dtd": "d"}, None, None) == []
    (rerun,) = published.reruns(
        published.published_rows("openai-rn50", {"dtd": "d"}, ["tip-adapter"], None), {"dtd": "d"}
    )
    assert (rerun.protocol, rerun.set, rerun.method, rerun.shots) == ("full-val", "dtd", "tip-adapter", (16,))


def test_the_mean_is_met_with_all_eleven_sets_only(published):
    from vladapt.core.tasks.classification.protocols import _table

    sets = dict.fromkeys(_table()["eleven"], "d")
    rows = published.published_rows("openai-rn50", sets, ["ape"], [1])
    (mean,) = [row for row in rows if row["set"] == "eleven"]
    assert {rerun.set for rerun in published.reruns([mean], sets)} == set(sets)
    ours = {("full-val", name, "ape", 1): [0.60 + 0.01 * place] for place, name in enumerate(sets)}
    (line,) = published.differences([mean], ours, sets)
    assert (line["ours"], line["published"]) == (pytest.approx(65.0), 65.13)
    assert published.differences([mean], {**dict(list(ours.items())[1:])}, sets) == []
    without = dict(list(sets.items())[1:])
    assert not [row for row in published.published_rows("openai-rn50", without, ["ape"], [1]) if row["set"] == "eleven"]


@pytest.mark.parametrize(
    ("backbone", "alias"),
    [("openai:RN50", "openai-rn50"), ("openai:ViT-B/16", "openai-vit-b-16"), ("openai-rn101", "openai-rn101")],
)
def test_names_of_backbones(published, backbone, alias):
    assert published.alias(backbone) == alias


def test_zero_shot_is_met_whatever_the_shots(published):
    rows = published.published_rows("openai-rn50", {"imagenet": "d"}, ["zero-shot"], None)
    ours = {("full-val", "imagenet", "zero-shot", "any"): [0.60, 0.60]}
    (line,) = published.differences(rows, ours, {"imagenet": "d"})
    assert line["difference"] == pytest.approx(60.0 - 60.32)


def test_methods_without_labels_stand_beside_published_means(published, eurosat, small_clip_spec, monkeypatch, capsys):
    given = ["--sets", f"eurosat={eurosat}", "--backbone", small_clip_spec, "--as", "openai-vit-b-32",
             "--unlabelled", "transclip,zlap,repe", "--out", "out"]  # fmt: skip
    published.main(given)
    printed = capsys.readouterr().out
    assert "repe: " in printed and "captions" in printed  # needs a resource that is not given
    table = Path("out", "unlabelled.md").read_text()
    assert table in printed
    transclip, zlap = (line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    zero_shot, ours = published.unlabelled_accuracy("transclip", "eurosat", published._parsed(given))
    assert transclip[:4] == ["transclip", "eurosat", f"{100 * zero_shot:.2f}", f"{100 * ours:.2f}"]
    assert transclip[5:] == [
        "12 sets (the eleven and CUB)", "60.97", "65.59", "+4.62", "GTA-CLIP, image of results in its repository",
    ]  # fmt: skip
    assert zlap[0] == "zlap" and set(zlap[5:]) == {"–"}
    with monkeypatch.context() as patch:
        patch.setattr(published, "fit", None)  # nothing is run again
        published.main([text.replace(",repe", "") for text in given])
    assert Path("out", "unlabelled.md").read_text() == table


def test_every_method_without_labels_is_registered(published):
    from vladapt.core.registry import catalogue

    assert set(published.UNLABELLED) <= set(catalogue.adapters())


def test_what_cannot_be_is_one_line(published, tmp_path, capsys):
    with pytest.raises(SystemExit, match="no published number of openai-rn101 is known"):
        published.main(["--sets", f"imagenet_v2={tmp_path}", "--backbone", "openai:RN101", "--out", "out"])
    with pytest.raises(SystemExit):
        published.main(["--sets", "dtd=nowhere", "--backbone", "openai:RN50"])
    assert "--sets dtd: write NAME=DIR" in capsys.readouterr().err
