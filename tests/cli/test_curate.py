"""`vladapt curate STAGE`: decisions as files, the same whoever makes them, and one line for what is wrong."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from tiny_blip import write_blip

from vladapt.core.commands.curate import EXAMPLES, SENTENCES
from vladapt.core.contracts.curator import STAGES, Curator, Decision, Survey
from vladapt.core.curation import DecisionStage
from vladapt.core.engine.curate import curate
from vladapt.core.retrieval import Entry, IndexBuilder
from vladapt.core.testing.curation import jpeg, write_pairs


def rows(folder):
    return pq.read_table(sorted(folder.glob("part-*.parquet"))).to_pylist()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def random_subset(vladapt, pairs):
    def call(*arguments):
        given = ("--method", "random", "--set", "fraction=0.5", "--out", "out")
        return vladapt("curate", "subset", pairs["root"] / "shards", *given, *arguments)

    return call


def test_decisions_are_written_told_and_not_made_twice(random_subset, tmp_path, monkeypatch):
    told = random_subset()
    assert told.code == 0, told.err
    assert "random: 15 of 30 pairs kept (50.0%)" in told.out
    assert "not drawn" in told.out
    made = json.loads(random_subset("--json").out)
    decided = rows(tmp_path / made["folder"])
    assert len(decided) == 30 and sum(row["keep"] for row in decided) == 15
    assert {(row["keep"], row["weight"], row["reason"]) for row in decided} == {(True, 1, ""), (False, 0, "not drawn")}
    record = json.loads((tmp_path / made["folder"] / "_state" / "curation.json").read_text())
    assert record["options"] == {"fraction": 0.5, "seed": 0} and record["kept"] == 15
    monkeypatch.setattr(Curator, "decide_all", None)
    monkeypatch.setattr(DecisionStage, "run", None)
    assert json.loads(random_subset("--json").out) == made


def test_what_was_dropped_before_is_not_judged_again(random_subset, tmp_path):
    first = json.loads(random_subset("--json").out)
    second = json.loads(random_subset("--after", first["folder"], "--set", "seed=1", "--json").out)
    assert second["pairs"] == 15 and second["kept"] == 7
    kept = {row["id"] for row in rows(tmp_path / first["folder"]) if row["keep"]}
    assert {row["id"] for row in rows(tmp_path / second["folder"])} == kept


def test_features_are_asked_of_pairs_and_those_without_are_told(vladapt, pairs, tmp_path):
    class Alike(Curator):
        stage = "filter"
        reads = ("image_features", "caption_features")

        def decide(self, pairs, survey: Survey) -> Decision:
            score = (pairs.unit("image_features") * pairs.unit("caption_features")).sum(axis=1)
            return Decision.of({"unlike": score < 0}, scores={"cosine": score})

    def built(name, **options):
        return Alike(**options)

    with pytest.MonkeyPatch.context() as patch:
        for place in ("vladapt.core.engine.curate", "vladapt.core.curation.decide"):
            patch.setattr(f"{place}.build_curator", built)
        made = curate("alike", [pairs["root"] / "shards"], tmp_path / "out", features=pairs["root"] / "features")
    assert (made.pairs, made.without_features) == (24, 6), "every fifth has no caption"
    table = rows(made.folder)
    assert 0 < sum(row["keep"] for row in table) < 24
    assert all((row["score_cosine"] >= 0) == row["keep"] for row in table)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("filter", "--method", "random"), "--method random: is for `vladapt curate subset`"),
        (("subset", "--method", "rndom"), "no curator has that name; did you mean random?"),
        (("subset", "--method", "random", "--set", "fraction=2"), "fraction"),
        (("subset", "--method", "random", "--set", "share=1"), "no option 'share'"),
        (("subset", "--method", "random", "--shard", "0/2"), "No such option: --shard"),
        (("subset", "--method", "random", "--after", "nowhere"), "nowhere: no decisions in it"),
        (("subset", "--method", "random", "--features", "nowhere"), "nowhere: no shards of features"),
    ],
)
def test_what_is_wrong_is_one_line(vladapt, pairs, arguments, message):
    told = vladapt("curate", *arguments, pairs["root"] / "shards", "--out", "out")
    assert told.code != 0
    assert message in told.err and told.err.count("\n") == 1


def test_without_pairs_or_features_there_is_nothing_to_decide(vladapt):
    told = vladapt("curate", "subset", "--method", "random", "--out", "out")
    assert "give the pairs (tars, Parquet files, folders), or --features" in told.err


def test_every_stage_has_a_command():
    assert tuple(SENTENCES) == tuple(EXAMPLES) == STAGES


def test_curators_are_listed_and_shown(vladapt):
    assert "random" in vladapt("list", "curators").out
    shown = vladapt("show", "curator", "random").out
    assert "for: curate subset" in shown and "--set NAME=value" in shown and "fraction" in shown


def test_what_is_removed_leaves_the_decisions(random_subset, vladapt, pairs, tmp_path):
    first = json.loads(random_subset("--json").out)
    kept = [row["id"] for row in rows(tmp_path / first["folder"]) if row["keep"]]
    (tmp_path / "ids.txt").write_text(kept[3] + "\n")
    how = ("--ids", "ids.txt", "--after", first["folder"], "--out", "out")
    told = vladapt("curate", "remove", pairs["root"] / "shards", *how)
    assert told.code == 0, told.err
    assert "removal: 14 of 15 pairs kept" in told.out and "removed by id" in told.out
    assert "give --ids FILE, --hashes FILE, or both" in vladapt("curate", "remove", "--out", "out").err


def test_known_images_are_removed_from_decisions_and_indices(vladapt, pairs, tmp_path):
    with IndexBuilder(tmp_path / "pairs.index", dims=4, kind="flat") as builder:
        builder.add(np.eye(4, dtype=np.float32)[np.arange(30) % 4], [Entry(id_, None) for id_ in pairs["ids"]])
        backbone = {"spec": "drawn", "fingerprint": "0"}
        builder.finish({"holds": "images", "backbone": backbone, "made_of": [], "skipped": []})
    (tmp_path / "known.txt").write_text(f"{hashlib.md5(jpeg(7, (27, 10))).hexdigest()}\n{'0' * 64}\n")
    (tmp_path / "ids.txt").write_text("b:003\nnowhere\n")
    what = ("--ids", "ids.txt", "--hashes", "known.txt", "--index", "pairs.index")
    told = vladapt("curate", "remove", pairs["root"] / "shards", *what, "--out", "out")
    assert told.code == 0, told.err
    assert "removal: 28 of 30 pairs kept" in told.out and "known image" in told.out
    assert "vladapt curate write" in told.out and "pairs.index: 2 entries deleted" in told.out
    made = json.loads(vladapt("curate", "remove", pairs["root"] / "shards", *what, "--out", "out", "--json").out)
    assert made["decisions"]["kept"] == 28 and made["indices"] == {"pairs.index": 0}
    gone = [row["id"] for row in rows(tmp_path / made["decisions"]["folder"]) if not row["keep"]]
    assert gone == ["b:003", "b:007"]
    for wrong, message in (
        (("--ids", "none.txt"), "none.txt"),
        (("--hashes", "ids.txt"), "ids.txt"),
        (("--ids", "ids.txt", "--index", "nowhere"), "nowhere"),
    ):
        refused = vladapt("curate", "remove", pairs["root"] / "shards", *wrong, "--out", "out")
        assert refused.code == 1 and message in refused.err and refused.err.count("\n") == 1
    assert "give --out and the pairs, or --index" in vladapt("curate", "remove", "--ids", "ids.txt").err


def test_what_is_kept_is_written_with_a_card(random_subset, vladapt, tmp_path):
    random_subset()
    told = vladapt("curate", "write", "out", "--out", "chosen", "--write", "tars", "--json")
    assert told.code == 0, told.err
    made = json.loads(told.out)
    assert made["kept"] == made["weight"] == 15 and set(made["written"]) == {"list", "tars", "card"}
    assert (tmp_path / "chosen" / "tars" / "00000.tar").is_file()
    told = vladapt("curate", "write", "out", "--out", "chosen")
    assert "Kept: 15 pairs, with a weight of 15 in all" in told.out and "List: chosen/LIST.parquet" in told.out


def test_a_recipe_runs_from_the_command_line(vladapt, pairs):
    how = ("--features", pairs["root"] / "features", "--out", "run", "--set", "s-cliploss.keep_first=0.5")
    told = vladapt("curate", "run", "--recipe", "small-domain", "--data", pairs["root"] / "shards", *how)
    assert told.code == 0, told.err
    assert "Kept in all: 12 of 30 pairs" in told.out and "No test set was given" in told.out
    assert "List: run/LIST.parquet" in told.out and "Report: run/report.html" in told.out
    report = vladapt("curate", "report", "run")
    assert report.code == 0 and "Report: run/report.html" in report.out
    assert "small-domain" in vladapt("list", "curations").out
    assert "s-cliploss: keep_first 0.9" in vladapt("show", "small-domain").out


def test_a_model_that_reads_pixels_scores_pairs_and_a_filter_reads_its_column(vladapt, pairs, tmp_path):
    pytest.importorskip("transformers", reason="extra hf is not installed")
    (tmp_path / "blip").mkdir()
    write_blip(tmp_path / "blip", "BlipForImageTextRetrieval")
    shards = pairs["root"] / "shards"
    told = vladapt("curate", "score", shards, "--model", "blip", "--out", "scores", "--batch-size", "8")
    assert told.code == 0, told.err
    assert "Scores: of 30 pairs in " in told.out
    made = json.loads(vladapt("curate", "score", shards, "--model", "blip", "--out", "scores", "--json").out)
    assert made["pairs"] == 30 and (tmp_path / made["folder"]).is_dir()
    how = ("--method", "blip", "--columns", made["folder"], "--out", "out", "--json")
    decided = json.loads(vladapt("curate", "filter", shards, *how).out)
    assert decided["dropped"]["no score"] == 6 and decided["pairs"] == 30, "every fifth has no text"
    told = vladapt("curate", "score", shards, "--model", "nowhere", "--out", "scores")
    assert told.code == 1 and "nowhere: no such folder" in told.err and told.err.count("\n") == 1


def test_attributes_of_a_report_are_two_with_words(random_subset, vladapt, tmp_path):
    random_subset()
    (tmp_path / "words.json").write_text('{"old": ["text"], "new": ["other"]}')
    assert vladapt("curate", "report", "out", "--attributes", "words.json").code == 0
    (tmp_path / "words.json").write_text('{"old": ["text"]}')
    assert "not two attributes" in vladapt("curate", "report", "out", "--attributes", "words.json").err
