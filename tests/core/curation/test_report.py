"""The page on a curation: counts, associations in closed form, examples, and what is said of what was not looked at."""

from pathlib import Path
from statistics import NormalDist

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curation.bias import associations
from vladapt.core.curation.record import chain_of, last_of, write_record
from vladapt.core.curation.report import StageDone, unchecked
from vladapt.core.curation.samples import SQUARES, StoredSample, mosaic
from vladapt.core.curation.tallies import sizes, thresholds, words_by
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curation_report import report_on_curation
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.shards.sources import ShardRow


def write_decisions(folder, ids, keep, reasons=None, **scores):
    folder.mkdir(parents=True, exist_ok=True)
    columns = {"id": ids, "keep": keep, "weight": [float(each) for each in keep]}
    columns["reason"] = reasons or ["" if each else "rule" for each in keep]
    pq.write_table(pa.table({**columns, **scores}), folder / "part-00000000.parquet")
    return folder


@pytest.fixture(scope="module")
def two_stages(pairs, tmp_path_factory):
    """A subset of a subset, of pairs that lie in tars."""
    out = tmp_path_factory.mktemp("curated")
    source, features = [pairs["root"] / "shards"], pairs["root"] / "features"
    how = {"features": features, "reads": ["image_features", "width", "height"]}
    first = curate("random", source, out, options={"fraction": 0.6}, **how)
    return out, curate("random", source, out, options={"fraction": 0.5, "seed": 1}, after=str(first.folder), **how)


def test_the_page_tells_the_funnel_and_shows_what_was_dropped(two_stages):
    out, last = two_stages
    assert chain_of(last.folder)[-1] == last.folder and last_of(out) == last.folder
    page = report_on_curation(out).read_text()
    assert "9 of 30 pairs are kept, 30.0%." in page
    assert "Kept, for comparison" in page and "Dropped by random: not drawn" in page
    assert "data:image/jpeg" in page
    assert "Test sets: none was given" in page and "coarse mosaics" in page
    assert "Shorter side of the images" in page and "below 100" in page
    assert "coarse mosaics" not in report_on_curation(out, faces=True).read_text()


def test_a_page_without_its_sources_has_no_pictures(two_stages, pairs, monkeypatch):
    out, _ = two_stages
    (pairs["root"] / "shards").rename(pairs["root"] / "gone")
    try:
        page = report_on_curation(out).read_text()
    finally:
        (pairs["root"] / "gone").rename(pairs["root"] / "shards")
    assert "9 of 30 pairs" in page and "data:image/jpeg" not in page


def test_a_stage_that_has_not_ended_has_no_page(tmp_path):
    write_decisions(tmp_path / "d", ["a"], [True])
    with pytest.raises(DataError, match="no last stages of curation"):
        report_on_curation(tmp_path)


def test_of_several_last_stages_one_must_be_named(tmp_path):
    for name in ("one", "two"):
        write_record(write_decisions(tmp_path / name, ["a"], [True]), {"after": []})
    with pytest.raises(DataError, match="2 last stages"):
        last_of(tmp_path)


def test_associations_are_differences_of_shares_before_and_after():
    women = ["a woman who is a nurse"] * 30 + ["a woman at work"] * 10
    men = ["a man who is a nurse"] * 10 + ["The man at work"] * 30
    texts = [*women, *men, "a woman and a man, nurse", "a nurse"]
    ids = [f"{n:03d}" for n in range(len(texts))]
    table = PairTable.of(ids, text=texts)
    keep = [not (text == women[0] and n % 3 == 0) for n, text in enumerate(texts)]  # a third of the nurses go
    made = {each.word: each for each in associations(table, np.flatnonzero(keep))}
    nurse = made["nurse"]
    assert nurse.attributes == ("women", "men")
    assert nurse.before[0] == pytest.approx(30 / 40 - 10 / 40)
    assert nurse.after[0] == pytest.approx(20 / 30 - 10 / 40)
    assert (nurse.texts_before, nurse.texts_after) == (40, 30)
    share = np.array([31 / 42, 11 / 42])
    looked_at = {"woman", "who", "nurse", "work", "man", "the"}  # of three letters or more: as many can be so by chance
    quantile = NormalDist().inv_cdf(1 - 0.025 / len(looked_at))
    assert nurse.before[1] == pytest.approx(quantile * np.sqrt((share * (1 - share) / 42).sum()))
    assert made["work"].before[0] == pytest.approx(-0.5)
    assert not {"woman", "man"} & set(made)


def test_attributes_of_ones_own_count_instead():
    texts = ["old house"] * 100 + ["new house"] * 80 + ["new boat"] * 20
    every = np.arange(200)
    table = PairTable.of([f"{n:03d}" for n in range(200)], text=texts)
    made = associations(table, every, {"old": ["Old"], "new": ["new"]})
    assert {each.word: each.before[0] for each in made} == pytest.approx({"house": 0.2, "boat": -0.2})
    assert associations(table, every) == []
    with pytest.raises(ConfigError, match="give two"):
        associations(table, every, {"old": ["old"]})


def test_words_are_those_of_any_script():
    texts = ["ein mädchen fährt"] * 25 + ["ein Junge läuft"] * 25 + ["старая книга"] * 25 + ["новая книга"] * 25
    table = PairTable.of([f"{n:03d}" for n in range(100)], text=texts)
    german = associations(table, np.arange(100), {"girls": ["Mädchen"], "boys": ["junge"]})
    assert {each.word for each in german} == {"fährt", "läuft"}
    russian = associations(table, np.arange(100), {"old": ["старая"], "new": ["новая"]})
    assert russian == []  # "книга" goes with both alike


def test_tallies_count_before_and_after():
    widths, heights = [50, 150, 900, 2000, 0], [90, 150, 950, 2000, 0]
    table = PairTable.of(list("abcde"), language=["en", "de", "en", None, None], width=widths, height=heights)
    kept = np.array([0, 2, 3])
    assert [(t.name, t.before, t.after) for t in words_by(table, "language", kept)] == [
        ("en", 2, 2),
        ("not told", 2, 1),
        ("de", 1, 0),
    ]
    counts = {t.name: (t.before, t.after) for t in sizes(table, kept)}
    assert counts["below 100"] == (1, 1) and counts["100 to 199"] == (1, 0) and counts["1600 and more"] == (1, 1)
    assert counts["not known"] == (1, 0)


def test_a_page_loads_nothing_from_the_web_and_says_who_lacks_features(tmp_path):
    row = ShardRow("a", "http://127.0.0.1:9/a.jpg", text="a cat")
    assert StoredSample(row, (), 0, faces=True).picture() is None
    stage = {"curator": "random", "pairs": 3, "kept": 2, "dropped": {}, "notes": [], "weight": 2, "after": []}
    folder = write_decisions(tmp_path / "d", ["a", "b", "c"], [True, True, False])
    write_record(folder, {**stage, "stage": "subset", "without_features": 7, "table": str(tmp_path / "gone")})
    page = report_on_curation(folder).read_text()
    assert "7 pairs without features were left out" in page and "2 of 3 pairs" in page


def test_the_page_names_what_was_not_looked_at_by_what_ran():
    def lines(*names):
        stages = [StageDone(Path(), {"curator": name, "stage": stage}) for name, stage in names]
        return " ".join(unchecked(None, stages, faces=True))

    assert "Test sets: none" in lines(("removal", "decontaminate"))
    assert "Test sets: none" not in lines(("decontaminate", "decontaminate"))
    assert "Copies of images" in lines(("random", "subset")) and "Copies of images" not in lines(("sem-dedup", "dedup"))


def test_what_if_limits_are_quantiles_of_the_scores(tmp_path):
    scores = np.arange(101, dtype=np.float32)
    folder = write_decisions(tmp_path / "d", [f"{n:03d}" for n in range(101)], [True] * 101, score_x=scores)
    shares, values = thresholds(folder)["score_x"]
    assert np.interp(0.3, shares[::-1], values[::-1]) == pytest.approx(70)
    assert thresholds(write_decisions(tmp_path / "e", ["a", "b"], [True, True], score_x=[1.0, 1.0])) == {}


def test_a_mosaic_has_as_many_squares_as_it_says():
    image = np.random.default_rng(0).integers(0, 255, (280, 140, 3), np.uint8)
    made = mosaic(image)
    assert made.shape == image.shape
    assert len(np.unique(made[:, 5], axis=0)) == SQUARES
    assert (made[:10, :10] == made[0, 0]).all()
    assert mosaic(image[:20, :20]).shape == (20, 20, 3)
