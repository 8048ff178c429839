"""What stages keep, written as a list, tars and ids, with a card that tells how it was chosen."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_shards import png, shard, simple

from vladapt.core.curation import KeptPairs, record_of, write_record
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curate_write import write_kept
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.shards import Manifest, ShardPlace
from vladapt.core.sharing.dataset_card import CuratedSet, dataset_card

pytest.importorskip("duckdb", reason="extra curation is not installed")
pytest.importorskip("huggingface_hub", reason="the card needs it")


@pytest.fixture(scope="module")
def decided(tmp_path_factory):
    """Two stages on a tar of 40 samples, of which ten are removed by id after half of them was drawn."""
    folder = tmp_path_factory.mktemp("curated")
    tar = shard(folder / "pool.tar", simple(40))
    (folder / "opt-outs.txt").write_text("".join(f"pool:{number:04d}\n" for number in range(10)))
    first = curate("random", [tar], folder / "out", options={"fraction": 0.5})
    second = curate(
        "removal", [tar], folder / "out", options={"ids": str(folder / "opt-outs.txt")}, after=[str(first.folder)]
    )
    return folder, first, second


def test_the_last_stage_of_a_folder_is_written_with_a_card(decided, tmp_path):
    folder, first, second = decided
    made = write_kept(folder / "out", tmp_path / "chosen", write=["tars"], samples=8, licence="cc-by-4.0")
    assert made.decisions == second.folder and made.kept == second.kept == made.weight
    pairs = read_pairs(tmp_path / "chosen" / "LIST.parquet", split="train")
    kept = {row["id"] for row in pq.read_table(second.folder).to_pylist() if row["keep"]}
    assert {f"pool:{pair.id.rpartition(':')[2]}" for pair in pairs} == kept
    assert len(read_pairs(tmp_path / "chosen" / "tars", split="train")) == len(kept)
    card = (tmp_path / "chosen" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "size_categories:\n- n<1K" in card
    assert f"{second.kept} of 40 pairs" in card and first.folder.name in card and second.folder.name in card
    assert f"| random | 0 | 40 | 20 | 50.0% | 0 | {first.folder.name} |" in card
    assert '"fraction": 0.5' in card and '"ids": "opt-outs.txt"' in card and "removed by id" in card
    assert hashlib.sha256((tmp_path / "chosen" / "LIST.parquet").read_bytes()).hexdigest() in card
    assert str(folder) not in card and str(tmp_path) not in card
    write_kept(folder / "out", tmp_path / "chosen")  # replaces its own card
    assert "Test sets: none was given" in card.split("What no stage could check")[1]


def test_the_card_tells_what_weights_amount_to(decided):
    _, _, second = decided
    weighted = KeptPairs(pa.array(["a", "b", "c"]), np.array([1, 1, 2], np.float32), pa.nulls(3, pa.large_string()))
    card = dataset_card(CuratedSet("mine", second.folder, weighted))
    assert "1 to 2, 4 in all" in card and "as much as 3 pairs of equal weight" in card and "license: unknown" in card
    with pytest.raises(DataError, match=r"apache-2\.0"):
        dataset_card(CuratedSet("mine", second.folder, weighted, licence="as you like"))


def test_ids_of_datacomp_need_no_pairs(tmp_path):
    uids = [f"{number:032x}" for number in range(6)]
    table = {"uid": uids, "text": ["a"] * 6, "bytes": pa.array([png(n) for n in range(6)])}
    pq.write_table(pa.table(table), tmp_path / "metadata.parquet")
    curate("random", [tmp_path / "metadata.parquet"], tmp_path / "out", options={"fraction": 0.5})
    made = write_kept(tmp_path / "out", tmp_path / "out", write=["uids"])
    array = np.load(made.written["uids"])
    assert len(array) == 3 and array.dtype == np.dtype("u8,u8")


def test_what_cannot_be_written_is_refused(decided, tmp_path):
    folder, *_ = decided
    with pytest.raises(ConfigError, match="--write csv: give some of list, tars, uids"):
        write_kept(folder / "out", tmp_path, write=["csv"])
    with pytest.raises(ConfigError, match="give one"):
        write_kept(folder / "out", "s3://bucket/x")
    with pytest.raises(DataError, match="no last stages"):
        write_kept(tmp_path, tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "README.md").write_text("# Mine")
    (tmp_path / "captions").mkdir()
    for problem, how in (
        ("32 hexadecimal digits", {"write": ["uids"]}),
        (r"apache-2\.0", {"licence": "as you like"}),
        ("captions of none; give", {"captions": tmp_path / "captions"}),
        ("README.md: is not a card by", {"out": tmp_path / "own"}),
    ):
        with pytest.raises(DataError, match=problem):
            write_kept(folder / "out", **{"out": tmp_path / "new", **how})
    assert not [*tmp_path.rglob("LIST.parquet"), *tmp_path.rglob("*.tar")], "nothing is written before all is checked"
    assert (tmp_path / "own" / "README.md").read_text() == "# Mine"


def test_sources_that_were_replaced_under_their_names_are_refused(tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(6))
    made = curate("random", [tar], tmp_path / "out", options={"fraction": 0.5})
    record = {**record_of(made.folder), "inputs": Manifest.of([str(tar)], ShardPlace(str(tmp_path)), tmp_path).digest}
    write_record(made.folder, record)
    write_kept(tmp_path / "out", tmp_path / "chosen")
    shard(tar, simple(7))
    with pytest.raises(DataError, match="the sources have changed since the decisions"):
        write_kept(tmp_path / "out", tmp_path / "chosen")
    assert write_kept(tmp_path / "out", tmp_path / "chosen", sources=[tar]).kept == 3


def test_captions_by_a_model_stand_beside_the_texts(decided, tmp_path):
    folder, _, second = decided
    ids = [f"pool:{number:04d}" for number in range(0, 40, 2)]
    (tmp_path / "captions" / "0f").mkdir(parents=True)
    table = pa.table({"id": ids, "caption": [f"caption of {name}" for name in ids]})
    pq.write_table(table, tmp_path / "captions" / "0f" / "part-00000000.parquet")
    made = write_kept(folder / "out", tmp_path / "chosen", captions=tmp_path / "captions")
    order = [row["id"] for row in pq.read_table(made.written["list"]).to_pylist()]
    assert order == sorted(order) and len(order) == second.kept
    pairs = read_pairs(made.written["list"], split="train")
    for pair in pairs:
        name = f"pool:{pair.id.rpartition(':')[2]}"
        assert pair.captions == (f"picture {int(name[-4:])}",)
        assert pair.texts.get("synthetic", ()) == ((f"caption of {name}",) if name in ids else ())
    assert any(pair.texts for pair in pairs)
    pq.write_table(table.slice(0, 1), tmp_path / "captions" / "0f" / "part-00000000.parquet")
    with pytest.raises(DataError, match="captions of none of these pairs"):
        write_kept(folder / "out", tmp_path / "chosen", captions=tmp_path / "captions")
    with pytest.raises(DataError, match="captions of none; give"):
        write_kept(folder / "out", tmp_path / "chosen", captions=tmp_path)


def test_loose_images_named_from_here_are_found_again_and_changed_ones_are_told(tmp_path, monkeypatch):
    (tmp_path / "imgs").mkdir()
    for number in range(6):
        (tmp_path / "imgs" / f"{number}.png").write_bytes(png(number))
        (tmp_path / "imgs" / f"{number}.txt").write_text(f"text {number}")
    monkeypatch.chdir(tmp_path)
    made = curate("random", ["imgs"], "out", options={"fraction": 0.5})
    assert write_kept("out", "chosen").kept == made.kept == 3
    (tmp_path / "imgs" / "1.txt").write_text("another text")
    with pytest.raises(DataError):
        write_kept("out", "again")


def test_what_is_refused_leaves_no_folder(decided, tmp_path):
    with pytest.raises(DataError, match="no last stages of curation"):
        write_kept(tmp_path, tmp_path / "chosen")
    assert not (tmp_path / "chosen").exists()
