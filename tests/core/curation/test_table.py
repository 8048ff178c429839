"""The table of all pairs: sorted by id whatever the order of files, features at their pairs, memory mapped."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curation import HAS, PairFacts, PairFeatures, build_table, open_table, positions_kept
from vladapt.core.curation.table import whole_folder
from vladapt.core.engine.shard_jobs import run_stage
from vladapt.core.errors import DataError
from vladapt.core.shards import Manifest, ShardPlace
from vladapt.core.testing.curation import STORED_WIDTH, jpeg, write_features, write_tar


@pytest.fixture(scope="module")
def facts(pairs, tmp_path_factory):
    """Parquet files of ids, texts and sizes."""
    out = tmp_path_factory.mktemp("facts")
    sources = sorted((pairs["root"] / "shards").glob("*.tar"))
    manifest = Manifest.of(sources, ShardPlace(str(out)), out)
    run_stage(PairFacts.of(manifest, ["width", "sha256", "phash"]), sources, out, shard_size=7)
    return sorted(map(str, out.glob("*/part-*.parquet")))


@pytest.fixture(scope="module")
def table(pairs, facts, tmp_path_factory):
    return build_table(tmp_path_factory.mktemp("t") / "table", facts, PairFeatures.of(pairs["root"] / "features"))


def test_rows_stand_in_the_order_of_their_ids(pairs, table):
    assert table.names() == sorted(pairs["ids"])
    texts = dict(zip(table.names(), table.strings("text")))
    assert texts["b:003"] == "text 3"
    assert texts["b:005"] == ""
    assert dict(zip(table.names(), table.numbers("width")))["a:021"] == 41


def test_features_stand_at_their_pairs_whatever_the_order_of_the_shards(pairs, table):
    at = {id_: n for n, id_ in enumerate(pairs["ids"])}
    order = [at[id_] for id_ in table.names()]
    np.testing.assert_array_equal(table.numbers("image_features"), pairs["image"][order].astype(np.float16))
    with_caption = np.array([n % 5 != 0 for n in order])
    np.testing.assert_array_equal(table.numbers(f"{HAS}caption_features"), with_caption)
    assert table.numbers(f"{HAS}image_features").all()
    assert table.encoder == "abc"
    assert isinstance(table.columns["image_features"], np.memmap)


def test_a_table_is_opened_as_it_was_made(table, tmp_path_factory):
    folder = next(tmp_path_factory.getbasetemp().glob("t*/table"))
    again = open_table(folder)
    assert again.names() == table.names()
    (folder / "table.json").rename(folder / "gone.json")
    try:
        with pytest.raises(DataError, match="not a whole table"):
            open_table(folder)
    finally:
        (folder / "gone.json").rename(folder / "table.json")


def test_features_alone_are_a_table_too(pairs, tmp_path):
    made = build_table(tmp_path / "table", [], PairFeatures.of(pairs["root"] / "features"))
    assert made.names() == sorted(pairs["ids"])
    with pytest.raises(DataError, match="column 'text'"):
        made.need("text")


def test_pairs_without_features_are_flagged(facts, tmp_path):
    features = write_features(
        tmp_path / "f", ["a:025", "elsewhere"], np.ones((2, STORED_WIDTH)), np.ones((2, STORED_WIDTH))
    )
    made = build_table(tmp_path / "table", facts, PairFeatures.of(features))
    there = made.numbers(f"{HAS}image_features")
    assert there.sum() == 1 and made.names(there) == ["a:025"]


@pytest.mark.parametrize(
    ("ids", "encoder", "message"),
    [
        (["a", "b", "a"], "abc", "'a' occurs twice"),
        (["a", "b", "c"], ["abc", "abc", "xyz"], "two encoders in one set"),
    ],
)
def test_bad_features_are_one_line(ids, encoder, message, tmp_path):
    write_features(tmp_path / "f", ids, np.ones((3, STORED_WIDTH)), np.ones((3, STORED_WIDTH)), encoder)
    with pytest.raises(DataError, match=message):
        build_table(tmp_path / "table", [], PairFeatures.of(tmp_path / "f"))
    assert not list(tmp_path.glob("table*")), "nothing half-made stays"


def test_features_of_other_pairs_are_refused(facts, tmp_path):
    write_features(tmp_path / "f", ["other"], np.ones((1, STORED_WIDTH)), np.ones((1, STORED_WIDTH)))
    with pytest.raises(DataError, match="of none of the pairs"):
        build_table(tmp_path / "table", facts, PairFeatures.of(tmp_path / "f"))


def test_shards_without_a_row_are_not_said_to_be_of_two_encoders(tmp_path):
    write_features(tmp_path / "f", ["a"], np.ones((1, STORED_WIDTH)), np.ones((1, STORED_WIDTH)))
    [file] = (tmp_path / "f").rglob("*.parquet")
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(DataError, match="holds no row"):
        PairFeatures.of(tmp_path / "f")


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(DataError, match="no shards of features"):
        PairFeatures.of(tmp_path)


def test_measured_facts_are_those_of_the_file(facts, tmp_path):
    write_tar(
        tmp_path / "c.tar", [("one", jpeg(1, (30, 20)), "t"), ("two", jpeg(1, (30, 20)), "t"), ("none", None, "t")]
    )
    manifest = Manifest.of([tmp_path / "c.tar"], ShardPlace(str(tmp_path / "out")), tmp_path)
    stage = PairFacts.of(manifest, ["width", "height", "sha256", "pixels_sha256", "phash", "bytes", "text"])
    run_stage(stage, [tmp_path / "c.tar"], tmp_path / "out")
    made = build_table(tmp_path / "table", sorted(map(str, tmp_path.glob("out/*/part-*.parquet"))), None)
    assert made.names() == ["c:none", "c:one", "c:two"]
    assert made.numbers("width").tolist() == [0, 30, 30]
    assert made.numbers("height").tolist() == [0, 20, 20]
    assert made.numbers("bytes")[1] == len(jpeg(1, (30, 20)))
    sums = made.strings("sha256")
    assert sums[0] == "" and sums[1] == sums[2] != ""
    assert made.numbers("phash")[1] == made.numbers("phash")[2] != 0


def test_texts_in_no_known_encoding_are_listed_and_not_guessed(tmp_path):
    write_tar(
        tmp_path / "c.tar",
        [
            ("one", jpeg(1), "as it was stored: \ufffd"),
            ("two", jpeg(2), "a caf\udce9".encode("utf-8", "surrogateescape")),
        ],
    )
    manifest = Manifest.of([tmp_path / "c.tar"], ShardPlace(str(tmp_path / "out")), tmp_path)
    made = run_stage(PairFacts.of(manifest, []), [tmp_path / "c.tar"], tmp_path / "out")
    assert made.rows == 1
    assert made.examples == [("c:two", "its text is in no known encoding; store it as UTF-8, or leave it out")]


def test_a_column_that_nothing_has_is_refused_before_anything_is_read(pairs, tmp_path):
    manifest = Manifest.of([pairs["root"] / "shards"], ShardPlace(str(tmp_path)), tmp_path)
    with pytest.raises(DataError, match="no column 'score'"):
        PairFacts.of(manifest, ["score"])


def test_a_column_that_a_curator_may_read_is_there_where_all_sources_have_it(tmp_path):
    for name, columns in (("a", {"language": ["en"]}), ("b", {"language": ["de"], "score": [0.5]})):
        pq.write_table(pa.table({"id": [name], "text": ["t"], **columns}), tmp_path / f"{name}.parquet")
    both = Manifest.of(sorted(tmp_path.glob("*.parquet")), ShardPlace(str(tmp_path / "out")), tmp_path)
    assert PairFacts.of(both, [], ["language", "score", "width"]).columns == ("language",)
    assert PairFacts.of(both, [], ["width"]).measured == ()


def test_positions_that_earlier_decisions_keep(tmp_path):
    table = PairTable.of(["c", "a", "b"], text=["", "", ""])
    for name, keep in (("one", [True, True, False]), ("two", [False, True, True])):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table({"id": ["a", "b", "c"], "keep": keep}), tmp_path / name / "part-00000000.parquet")
    assert positions_kept(table, [str(tmp_path / "one")]).tolist() == [0, 1]
    assert positions_kept(table, [str(tmp_path / "one"), str(tmp_path / "two")]).tolist() == [1]
    with pytest.raises(DataError, match="no decisions in it"):
        positions_kept(table, [str(tmp_path)])
    with pytest.raises(DataError, match="decisions of none of these pairs"):
        positions_kept(PairTable.of(["z"], text=[""]), [str(tmp_path / "one")])
    pq.write_table(pa.table({"name": ["a"], "keep": [True]}), tmp_path / "two" / "part-00000001.parquet")
    with pytest.raises(DataError, match=r"part-00000001\.parquet: no decisions in it"):
        positions_kept(table, [str(tmp_path / "two")])
    (tmp_path / "two" / "part-00000001.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match=r"part-00000001\.parquet: cannot be read"):
        positions_kept(table, [str(tmp_path / "two")])


def test_decisions_that_keep_nothing_have_no_positions(tmp_path):
    pq.write_table(pa.table({"id": ["a", "b"], "keep": [False, False]}), tmp_path / "part-00000000.parquet")
    assert positions_kept(PairTable.of(["a", "b"]), [str(tmp_path)]).tolist() == []


def test_columns_may_be_called_and_folders_named_as_they_like(tmp_path):
    file = tmp_path / "day=3" / "part-0.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"id": ["b", "a"], "../up": [2, 1], "a/b": ["y", "x"], "ids": ["q", "p"]}), file)
    made = build_table(tmp_path / "table", [str(file)], None)
    assert set(made.columns) == {"../up", "a/b", "ids"}
    assert made.numbers("../up").tolist() == [1, 2] and made.strings("a/b") == ["x", "y"] and made.names() == ["a", "b"]


def test_a_table_that_another_process_finished_meanwhile_stays(tmp_path):
    with whole_folder(tmp_path / "table", "last") as work:
        (work / "last").write_text("mine")
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "last").write_text("the other's")
    assert (tmp_path / "table" / "last").read_text() == "the other's"
    assert [each.name for each in tmp_path.iterdir()] == ["table"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": ["a"], "encoder": ["x"], "image_features": [[1.0]]}, "no column 'id'"),
        ({"id": ["a"], "encoder": ["x"], "image_features": [1.0]}, "'image_features' is double; give lists of floats"),
        ({"id": ["a", "b"], "encoder": ["x", "x"], "image_features": [[1.0], [1.0, 2.0]]}, "of another width"),
    ],
)
def test_features_of_another_form_are_one_line(table, message, tmp_path):
    pq.write_table(pa.table(table), tmp_path / "part-0.parquet")
    with pytest.raises(DataError, match=message):
        build_table(tmp_path / "t" / "table", [], PairFeatures.of(tmp_path))


def test_damaged_features_are_one_line(tmp_path):
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(DataError, match=r"part-0\.parquet: cannot be read"):
        PairFeatures.of(tmp_path)


def test_texts_beside_loose_images_are_theirs(tmp_path):
    for name, text in {"one": b"a caption\nand another\n", "two": b"caf\xe9", "three": b"", "four": None}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.jpg").write_bytes(jpeg(1))
        if text is not None:
            (tmp_path / "in" / f"{name}.txt").write_bytes(text)
    manifest = Manifest.of([tmp_path / "in"], ShardPlace(str(tmp_path / "out")), tmp_path)
    made = run_stage(PairFacts.of(manifest, []), [tmp_path / "in"], tmp_path / "out")
    rows = [row for file in tmp_path.glob("out/*/part-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert {row["id"].rpartition("/")[2]: row["text"] for row in rows} == {
        "one.jpg": "a caption\nand another",
        "three.jpg": None,
        "four.jpg": None,
    }
    assert made.unreadable == 1 and made.examples[0][1] == "two.txt is not UTF-8 text"
    (tmp_path / "in" / "one.txt").write_text("other")
    assert Manifest.of([tmp_path / "in"], ShardPlace(str(tmp_path / "out")), tmp_path).digest != manifest.digest
