"""Files of DataComp, img2dataset and clip-retrieval, drawn in the layout that their code writes."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tar_shards import shard, simple

from vladapt.core.curation import CurationRecipe, peers, record_of
from vladapt.core.curation.peers import PeerFiles
from vladapt.core.curation.recipes import CuratorStage
from vladapt.core.curation.stored import PairFeatures
from vladapt.core.data.pairs.pair_list import list_rows
from vladapt.core.engine.curate import curate
from vladapt.core.engine.curate_run import run_curation
from vladapt.core.engine.curate_write import write_kept
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.testing.curation import write_features


def features(rows, width, seed, dtype=np.float16):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(dtype)


def blocks_of(found, columns, features=()):
    return [block for file in found.files for block in found.blocks_of(file, columns, features)]


def uid(number):
    return f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"


@pytest.fixture
def datacomp(tmp_path):
    for number, rows in enumerate((5, 3)):
        first = number * 5
        table = {
            "uid": [uid(first + row) for row in range(rows)],
            "url": [f"http://x/{first + row}" for row in range(rows)],
            "text": [f"text {first + row}" for row in range(rows)],
            "original_width": pa.array([100 + row for row in range(rows)], pa.int64()),
            "original_height": pa.array([200 + row for row in range(rows)], pa.int64()),
            "clip_b32_similarity_score": [0.1 * row for row in range(rows)],
            "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]]] * rows,
            "sha256": [f"{row:064x}" for row in range(rows)],
        }
        stem = tmp_path / "metadata" / f"{number:04x}"
        stem.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(table), f"{stem}.parquet")
        arrays = {
            f"{kind}_{side}": features(rows, width, number)
            for kind, width in (("b32", 4), ("l14", 6))
            for side in ("img", "txt")
        }
        np.savez(f"{stem}.npz", **arrays)
    return tmp_path / "metadata"


def test_datacomp_gives_uids_columns_and_features_of_two_encoders(datacomp, monkeypatch):
    monkeypatch.setattr(peers, "ROWS_AT_ONCE", 2)
    found = PeerFiles.of(datacomp)
    assert found.kind == peers.DATACOMP and found.encoders == {"_b32": "openai-vit-b-32", "_l14": "openai-vit-l-14"}
    assert "face_bboxes" not in found.columns and "clip_b32_similarity_score" in found.columns
    blocks = blocks_of(found, ["text", "width", "sha256"], ["image_features_l14", "caption_features_b32"])
    assert [len(block.ids) for block in blocks] == [2, 2, 1, 2, 1]
    assert [each for block in blocks for each in block.ids] == [uid(n) for n in range(8)]
    assert blocks[3].columns["text"].to_pylist() == ["text 5", "text 6"]
    assert blocks[1].columns["width"].to_pylist() == [102, 103]
    assert np.array_equal(blocks[1].features["image_features_l14"], features(5, 6, 0)[2:4])
    assert np.array_equal(blocks[4].features["caption_features_b32"], features(3, 4, 1)[2:])


def test_shards_that_are_made_of_them_are_those_of_embed(datacomp, tmp_path):
    found = PeerFiles.of(datacomp)
    facts, folder = found.write(tmp_path / "out", ["width", "clip_b32_similarity_score"], features=True)
    table = pa.concat_tables([pq.read_table(file) for file in facts])
    assert table.column_names == ["id", "text", "width", "clip_b32_similarity_score"] and len(table) == 8
    held = PairFeatures.of(folder, "l14")
    assert held.encoder == "openai-vit-l-14" and len(held.files) == 2
    rows = pq.read_table(held.files[1])
    assert rows["id"].to_pylist() == [uid(n) for n in range(5, 8)]
    assert np.array_equal(np.array(rows["image_features_l14"].to_pylist(), np.float16), features(3, 6, 1))
    before = [pq.read_metadata(file).num_rows for file in facts], (folder / "part-00000000.parquet").stat().st_mtime_ns
    again = found.write(tmp_path / "out", ["width", "clip_b32_similarity_score"], features=True)
    assert again == (facts, folder) and (folder / "part-00000000.parquet").stat().st_mtime_ns == before[1]
    assert found.write(tmp_path / "out", ["height"], features=False)[0] != facts


def test_decisions_are_made_of_them_and_nothing_is_embedded(datacomp, tmp_path):
    made = curate("clip-score", [datacomp], tmp_path / "out", options={"fraction": 0.4}, encoder="l14")
    rows = {row["id"]: row for row in pq.read_table(made.folder).to_pylist()}
    image, caption = (np.concatenate([features(n, 6, f) for f, n in enumerate((5, 3))]).astype(np.float32),) * 2
    assert set(rows) == {uid(n) for n in range(8)}
    cosines = (image * caption).sum(axis=1) / np.linalg.norm(image, axis=1) / np.linalg.norm(caption, axis=1)
    for number in range(8):
        assert rows[uid(number)]["score_clip_score"] == pytest.approx(float(cosines[number]), abs=1e-3)
    other = curate("clip-score", [datacomp], tmp_path / "out", options={"fraction": 0.4}, encoder="b32")
    assert other.folder != made.folder and record_of(other.folder)["table"] != record_of(made.folder)["table"]
    by_column = {"fraction": 0.4, "column": "clip_b32_similarity_score"}
    assert curate("clip-score", [datacomp], tmp_path / "out", options=by_column).pairs == 8


def test_the_user_may_say_that_targets_are_of_the_same_encoder_by_another_name(datacomp, tmp_path):
    rows = features(4, 6, 9)
    write_features(tmp_path / "target", list("abcd"), rows, rows, encoder="0f3a")
    np.save(tmp_path / "target.npy", rows.astype(np.float32))
    how = {"target": str(tmp_path / "target"), "keep": 0.5}
    with pytest.raises(DataError, match=r"of encoder 0f3a, the pairs' are of openai-vit-l-14; .*--encoder NAME=0f3a"):
        curate("norm-sim", [datacomp], tmp_path / "out", options=how, encoder="l14")
    made = curate("norm-sim", [datacomp], tmp_path / "out", options=how, encoder="l14=0f3a")
    nameless = {**how, "target": str(tmp_path / "target.npy")}
    plain = curate("norm-sim", [datacomp], tmp_path / "out", options=nameless, encoder="l14")
    scores = [pq.read_table(each.folder).drop_columns("reason").to_pydict() for each in (made, plain)]
    assert scores[0] == scores[1] and made.kept == 4
    with pytest.raises(DataError, match="of encoder 0f3a, the pairs' are of another"):
        curate("norm-sim", [datacomp], tmp_path / "out", options=how, encoder="l14=another")


def test_a_recipe_takes_the_features_that_are_there(datacomp, tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.core.engine.curate_run.embed", lambda *args, **how: pytest.fail("embedded"))
    recipe = CurationRecipe("mine", "", (CuratorStage("clip-score", {"fraction": 0.4}),))
    with pytest.raises(DataError, match="features of b32, l14; say which by --encoder"):
        run_curation(recipe, [datacomp], tmp_path / "out")


def test_folders_of_other_tools_are_curated_alone(datacomp, tmp_path):
    tar = shard(tmp_path / "pool.tar", simple(3))
    with pytest.raises(ConfigError, match="is of DataComp, other sources are not"):
        curate("random", [datacomp, tar], tmp_path / "out")


def downloaded(folder, first):
    """A folder of img2dataset with a tar of four images, of which the table knows neither sums nor hashes; one of them
    is no image, and a fifth was not downloaded."""
    members = {**simple(4, start=first), f"{first + 3:04d}.png": b"no image"}
    shard(folder / "00000.tar", members)
    keys = [f"{first + row:04d}" for row in range(5)]
    status = ["success"] * 4 + ["failed_to_download"]
    columns = {"url": keys, "caption": [f"picture {key}" for key in keys], "key": keys, "status": status}
    pq.write_table(pa.table({**columns, "original_width": [300] * 5}), folder / "00000.parquet")
    return folder


def test_what_img2dataset_did_not_write_is_measured_in_its_tars(tmp_path):
    folders = [downloaded(tmp_path / "a", 0), downloaded(tmp_path / "b", 2)]  # two images are in both
    how = {"options": {"pixels": True}, "tolerate": 0.5}
    made = curate("exact", folders, tmp_path / "out", **how)
    assert (made.pairs, made.kept, made.unreadable) == (6, 5, 2), "the third of `a` is the first of `b`"
    rows = {row["id"]: row["keep"] for row in pq.read_table(made.folder).to_pylist()}
    ids = [
        f"{folder}/00000.tar:{number:04d}"
        for folder, first in zip(folders, (0, 2))
        for number in range(first, first + 3)
    ]
    assert list(rows) == ids and [id_ for id_, keep in rows.items() if not keep] == [ids[3]]
    written = write_kept(tmp_path / "out", tmp_path / "chosen")
    sources = [row["source"] for row in list_rows(written.written["list"])]
    assert sources == [str(folders[0] / "00000.tar")] * 3 + [str(folders[1] / "00000.tar")] * 2
    alone = curate("exact", folders[:1], tmp_path / "alone", **how)
    assert [row["id"] for row in pq.read_table(alone.folder).to_pylist()] == [f"00000:{n:04d}" for n in range(3)]
    with pytest.raises(DataError, match=r"00000.parquet: no column 'language'"):
        curate("clip-score", folders, tmp_path / "out", options={"column": "language", "fraction": 0.5})
    with pytest.raises(ConfigError, match="given twice"):
        curate("exact", [folders[0], folders[0]], tmp_path / "out", **how)


def test_img2dataset_gives_what_was_downloaded_by_the_ids_of_its_tars(tmp_path):
    for number in range(2):
        shard(tmp_path / f"{number:05d}.tar", simple(3))
        table = {
            "url": [f"http://x/{row}" for row in range(4)],
            "caption": [f"picture {row}" for row in range(4)],
            "key": [f"{row:04d}" for row in range(4)],
            "status": ["success", "failed_to_download", "success", None],
            "error_message": [None, "404", None, None],
            "width": pa.array([256, None, 128, None], pa.int32()),
            "height": pa.array([256, None, 64, None], pa.int32()),
            "original_width": pa.array([512, None, 300, None], pa.int32()),
            "sha256": ["a", None, "c", None],
        }
        pq.write_table(pa.table(table), tmp_path / f"{number:05d}.parquet")
    (tmp_path / "00009.parquet").write_bytes((tmp_path / "00000.parquet").read_bytes())  # its tar is not there yet
    found = PeerFiles.of(tmp_path)
    assert found.kind == peers.IMG2DATASET and not found.features
    first, second = blocks_of(found, ["text", "width", "original_width", "sha256"])
    assert first.ids == ["00000:0000", "00000:0002"] and second.ids == ["00001:0000", "00001:0002"]
    assert first.columns["text"].to_pylist() == ["picture 0", "picture 2"]
    assert first.columns["width"].to_pylist() == [256, 128] and first.columns["original_width"].to_pylist() == [
        512,
        300,
    ]


def test_clip_retrieval_gives_its_paths_and_features_without_loading_all(tmp_path, monkeypatch):
    for name in ("metadata", "img_emb", "text_emb"):
        (tmp_path / name).mkdir()
    for number in (0, 10, 2):
        rows = {
            "image_path": [f"{number}/{row}.jpg" for row in range(3)],
            "caption": ["a", "b", None],
            "similarity": [0.1] * 3,
        }
        pq.write_table(pa.table(rows), tmp_path / "metadata" / f"metadata_{number}.parquet")
        np.save(tmp_path / "img_emb" / f"img_emb_{number}.npy", features(3, 4, number))
        np.save(tmp_path / "text_emb" / f"text_emb_{number}.npy", features(3, 4, 50 + number, np.float32))
    with pytest.raises(ConfigError, match="does not write which model"):
        PeerFiles.of(tmp_path)
    found = PeerFiles.of(tmp_path, "openai-vit-b-32")
    assert found.kind == peers.CLIP_RETRIEVAL and found.features == ("image_features", "caption_features")
    blocks = blocks_of(found, ["text"], found.features)
    assert [block.ids[0] for block in blocks] == ["0/0.jpg", "2/0.jpg", "10/0.jpg"]
    assert blocks[1].columns["text"].to_pylist() == ["a", "b", None]
    assert np.array_equal(blocks[2].features["image_features"], features(3, 4, 10))
    assert blocks[2].features["caption_features"].dtype == np.float32
    held = PairFeatures.of(found.write(tmp_path / "out", [], features=True)[1])
    assert held.encoder == "openai-vit-b-32" and set(held.columns) == {"image_features", "caption_features"}
    (tmp_path / "text_emb" / "text_emb_2.npy").unlink()
    with pytest.raises(DataError, match=r"text_emb_2.npy: missing, though metadata_2.parquet is there"):
        PeerFiles.of(tmp_path, "x")


@pytest.mark.parametrize("damage", ["short", "torn", "no column", "no npz", "pickle"])
def test_what_does_not_fit_is_one_line(datacomp, damage):
    path = datacomp / "0001.npz"
    if damage == "short":
        np.savez(path, b32_img=features(2, 4, 0), b32_txt=features(2, 4, 0), l14_img=features(2, 6, 0))
    elif damage == "torn":
        path.write_bytes(path.read_bytes()[:300])
    elif damage == "no npz":
        path.unlink()
    elif damage == "pickle":
        np.savez(path, b32_img=np.array([{}] * 3, object))
    wanted = ["license"] if damage == "no column" else ["text"]
    problems = {
        "short": r"0001.npz: b32_img has shape \(2, 4\) of float16, and 0001.parquet has 3 rows",
        "torn": r"0001.npz: cannot be read",
        "no column": "no column 'license'",
        "no npz": r"0001.npz: missing, though other files have features",
        "pickle": "0001.npz: cannot be read",
    }
    with pytest.raises(DataError, match=problems[damage]):
        blocks_of(PeerFiles.of(datacomp), wanted, ["image_features_b32"])


def test_other_folders_are_none_of_these(tmp_path):
    assert PeerFiles.of(tmp_path) is None and PeerFiles.of(tmp_path / "none") is None
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "x.parquet")
    assert PeerFiles.of(tmp_path) is None


def test_one_encoder_needs_no_choice(tmp_path):
    rows = np.eye(4, dtype=np.float16)
    write_features(tmp_path / "features", list("abcd"), rows, rows, encoder="0f3a")
    with pytest.raises(DataError, match="features of one encoder alone; omit --encoder b32"):
        curate("clip-score", [], tmp_path / "out", features=str(tmp_path / "features"), encoder="b32")
    part = next((tmp_path / "features").glob("*.parquet"))
    pq.write_table(pq.read_table(part).drop_columns("encoder"), part)
    with pytest.raises(DataError, match="no column 'encoder'; add one"):
        curate("clip-score", [], tmp_path / "out", features=str(tmp_path / "features"))
