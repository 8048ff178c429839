"""Decisions are in a folder of their own for all that they depend on, and what is wrong is one line."""

import os
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vladapt.core.curation import CurationRecipe, record_of
from vladapt.core.curation.recipes import DECONTAMINATE, CuratorStage
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curate_run import run_curation
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.runtime.process import stops_like_ctrl_c
from vladapt.core.runtime.progress import Reporter
from vladapt.core.testing.curation import drawn_file, write_features

pytest.importorskip("duckdb", reason="extra curation is not installed")


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"id": [f"p{n}" for n in range(10)], "text": [f"text {n}" for n in range(10)]}), path)
    return path


def test_a_stop_says_that_the_table_and_the_survey_are_kept(pairs, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("vladapt.core.engine.curate.tally", stopped)
    with stops_like_ctrl_c() as stops, pytest.raises(KeyboardInterrupt):
        curate("random", [pairs], tmp_path / "out")
    out = str(tmp_path / "out")
    assert (stops.kept["the table of pairs"], stops.kept["the survey of all pairs"]) == (out, out)


def test_a_stage_after_others_is_another_folder_though_these_kept_all(pairs, tmp_path):
    half = {"fraction": 0.5}
    alone = curate("random", [pairs], tmp_path / "out", options=half)
    everything = curate("random", [pairs], tmp_path / "out", options={"fraction": 1.0})
    after = curate("random", [pairs], tmp_path / "out", options=half, after=[str(everything.folder)])
    assert after.folder != alone.folder and (after.pairs, after.kept) == (alone.pairs, alone.kept)
    assert record_of(alone.folder)["after"] == [] and record_of(after.folder)["after"] == [str(everything.folder)]
    named = curate("random", [pairs], tmp_path / "out", options={**half, "seed": 0})
    assert named.folder == alone.folder, "what is the default anyway"


def test_other_contents_of_a_file_are_other_decisions_though_its_size_and_time_are_the_same(pairs, tmp_path):
    ids = tmp_path / "ids.txt"
    made = []
    for id_ in ("p1", "p2"):
        ids.write_text(f"{id_}\n")
        os.utime(ids, (1e9, 1e9))
        made.append(curate("removal", [pairs], tmp_path / "out", options={"ids": str(ids)}))
    assert made[0].folder != made[1].folder


def test_after_a_stage_that_kept_nothing_the_next_says_so(pairs, tmp_path):
    (tmp_path / "none").mkdir()
    nothing = pa.table({"id": [f"p{n}" for n in range(10)], "keep": [False] * 10})
    pq.write_table(nothing, tmp_path / "none" / "part-00000000.parquet")
    with pytest.raises(DataError, match="none: kept nothing; relax a rule"):
        curate("random", [pairs], tmp_path / "out", options={"fraction": 0.5}, after=[str(tmp_path / "none")])


def test_steps_of_a_curator_are_shown_as_pairs(pairs, tmp_path):
    rows, shown = np.eye(10, dtype=np.float16), []
    write_features(tmp_path / "features", [f"p{n}" for n in range(10)], rows, rows)

    class Shown(Reporter):
        @contextmanager
        def task(self, title, unit="images"):
            yield lambda done, total: shown.append((title, unit, done, total))

    options = {"steps": 4, "keep": 0.5}
    how = {"features": str(tmp_path / "features"), "reporter": Shown(quiet=True)}
    curate("norm-sim", [pairs], tmp_path / "out", options=options, **how)
    looked = [each[1:] for each in shown if each[0] == "Looking at all pairs (norm-sim)"]
    assert looked == [("pairs", done, 10) for done in (2, 5, 7)], "three of four steps reach the end of so small a pool"


def test_what_decisions_were_made_of_is_where_all_was_moved(pairs, tmp_path):
    made = curate("random", [pairs], tmp_path / "out", options={"fraction": 0.5})
    assert record_of(made.folder)["sources"] == [str(pairs)]
    moved = tmp_path / "moved"
    moved.mkdir()
    for each in (pairs, tmp_path / "out"):
        each.rename(moved / each.name)
    record = record_of(moved / "out" / made.folder.name)
    assert record["sources"] == [str(moved / pairs.name)]
    assert record["table"].startswith(str(moved / "out" / "tables"))


def test_test_sets_may_be_options_of_the_stage(pairs, tmp_path, monkeypatch):
    recipe = CurationRecipe("mine", "", (CuratorStage(DECONTAMINATE),))
    monkeypatch.setattr("vladapt.core.engine.curate_run.embed", lambda *args, **how: pytest.fail("embedded"))
    with pytest.raises(ConfigError, match="mine: no stage to run; give --tests"):
        run_curation(recipe, [pairs], tmp_path / "out")
    with pytest.raises(ConfigError, match="give the pairs by --data"):
        run_curation(recipe, [], tmp_path / "out", options={f"{DECONTAMINATE}.tests": drawn_file(5)})
    with pytest.raises(ConfigError, match="--out s3://bucket/x: decisions are written to a folder of this machine"):
        run_curation(recipe, [pairs], "s3://bucket/x")


@pytest.mark.parametrize(
    "run", [lambda out: curate("random", ["x"], out), lambda out: run_curation("small-domain", ["x"], out)]
)
def test_what_is_not_installed_is_told_before_anything_is_computed(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(CapabilityError, match=r"vladapt\[curation\]"):
        run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
