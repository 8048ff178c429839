"""Features as shards: the same numbers as in one file, by image, whatever the sources, encoders and processes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.backbones import load_backbone
from vladapt.core.contracts.backbone import offered
from vladapt.core.curation.stored import PairFeatures
from vladapt.core.engine.embed import embed
from vladapt.core.errors import ConfigError, DataError, VladaptError
from vladapt.core.features.files import load_features
from vladapt.core.recipes.resolve import resolve
from vladapt.core.shards import ShardPlace, jobs_below


class Means(torch.nn.Module):
    """Means of a grid of cells, times a factor."""

    def __init__(self, side, factor=1.0):
        super().__init__()
        self.side, self.factor = side, torch.nn.Parameter(torch.tensor(factor))

    def forward(self, pixels):
        return self.factor * torch.nn.functional.adaptive_avg_pool2d(pixels, self.side).flatten(1)


@pytest.fixture(scope="module")
def backbones():
    made = [
        vladapt.Backbone.from_module(Means(side, side * 1.5), image_size=12 * side, embed_dim=3 * side**2)
        for side in (2, 3)
    ]
    return {"specs": [offered(each) for each in made], "backbones": made}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(11):
        file = folder / ("cat", "dog")[number % 2] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(numbers.integers(0, 255, (30, 40, 3), np.uint8)).save(file)
    (folder / "dog" / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def encoded_picture(pictures):
    return (pictures / "cat" / "00.png").read_bytes()


@pytest.fixture
def shards_of(tmp_path, backbones):
    """`shards_of(images, name="out", **how)`: what was written, and its rows."""

    def make(images, name="out", spec=backbones["specs"][0], **how):
        recipe = resolve(flags={"backbone": spec, **how.pop("recipe", {})})
        how = {"as_": "parquet", "shard_size": 4, **how}
        written = embed(recipe, tmp_path / name, images=[str(each) for each in images], **how)
        return written, pd.read_parquet(written.folder)

    return make


def matrix(column):
    return np.stack([np.asarray(row, np.float32) for row in column])


def test_shards_have_the_numbers_of_a_file(pictures, shards_of, backbones, tmp_path):
    written, rows = shards_of([pictures], dtype="float32")
    assert (written.images, written.shards, written.unreadable) == (11, 3, 1)
    assert written.skipped[0][0] == f"{pictures}/dog/bad.png"
    embed(resolve(flags={"backbone": backbones["specs"][0]}), tmp_path / "all.npz", images=[pictures])
    file = np.load(tmp_path / "all.npz")
    expected = dict(zip(file["ids"].tolist(), file["image_features"]))
    assert set(rows["id"]) == set(expected)
    for name, features in zip(rows["id"], matrix(rows["image_features"])):
        np.testing.assert_allclose(features, expected[name], rtol=1e-5, atol=1e-6)
    assert set(rows["encoder"]) == {backbones["backbones"][0].fingerprint}
    halves = matrix(shards_of([pictures], "halves")[1]["image_features"])
    assert 0 < np.abs(halves - matrix(rows["image_features"])).max() < 2e-3


class Threads(torch.nn.Module):
    """How many threads work on a product, and how many images they see at once."""

    def forward(self, pixels):
        return torch.tensor([[torch.get_num_threads(), len(pixels)]], dtype=torch.float32).expand(len(pixels), 2)


def test_numbers_do_not_hang_on_the_number_of_cores(pictures, shards_of):
    seen = vladapt.Backbone.from_module(Threads(), image_size=8, embed_dim=2)
    _, rows = shards_of([pictures], spec=offered(seen), shard_size=11)
    threads, at_once = matrix(rows["image_features"]).T
    assert set(threads) == {1} and max(at_once) <= 4


def test_several_encoders_in_one_pass_are_each_what_it_is_alone(pictures, shards_of, backbones, monkeypatch):
    decoded = []
    from vladapt.core.engine import shard_rows

    plain = shard_rows.decode_bytes
    monkeypatch.setattr(shard_rows, "decode_bytes", lambda *args: decoded.append(args[1]) or plain(*args))
    _, both = shards_of([pictures], "both", ",".join(backbones["specs"]), dtype="float32")
    assert len(decoded) == len(set(decoded)) == 12  # each image once
    columns = [name for name in both if name.startswith("image_features")]
    assert len(columns) == 2
    for spec, column, backbone in zip(backbones["specs"], columns, backbones["backbones"]):
        _, alone = shards_of([pictures], f"alone{column}", spec, dtype="float32")
        assert alone["id"].tolist() == both["id"].tolist()
        np.testing.assert_array_equal(matrix(alone["image_features"]), matrix(both[column]))
        assert set(both[f"encoder{column.removeprefix('image_features')}"]) == {backbone.fingerprint}


def test_tars_tables_and_folders_give_the_same_features(pictures, shards_of, tmp_path):
    import tarfile

    files = sorted(pictures.rglob("*.png"))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for file in files:
            archive.add(file, file.name)
    pq.write_table(
        pa.table({"id": [f.name for f in files], "image": [f.read_bytes() for f in files]}), tmp_path / "set.parquet"
    )
    rows = [
        shards_of([source], source.stem + source.suffix[1:])[1]
        for source in (pictures, tmp_path / "set.tar", tmp_path / "set.parquet")
    ]
    for other in rows[1:]:
        np.testing.assert_array_equal(matrix(rows[0]["image_features"]), matrix(other["image_features"]))
    assert rows[1]["id"][0] == "set:00" and rows[2]["id"][0] == "00.png"


def test_what_is_done_is_not_computed_again_and_other_settings_are(pictures, shards_of, tmp_path):
    first, rows = shards_of([pictures])
    (Path(first.folder) / "part-00000001.parquet").unlink()
    (Path(first.folder) / "_state" / "done" / "part-00000001").unlink()
    again, same = shards_of([pictures])
    assert (again.folder, again.shards_before, again.shards) == (first.folder, 2, 3)
    pd.testing.assert_frame_equal(rows, same)
    other, _ = shards_of([pictures], recipe={"batch_size": 3})
    assert other.folder != first.folder and other.shards_before == 0
    jobs = {job.folder: job for job in jobs_below(ShardPlace(str(tmp_path / "out")))}
    assert {first.folder, other.folder} == set(jobs)
    assert (jobs[first.folder].done, jobs[first.folder].shards, jobs[first.folder].rows) == (3, 3, 12)


def test_jobs_of_an_array_make_the_whole(pictures, shards_of):
    _, rows = shards_of([pictures])
    for number in range(2):
        part, _ = shards_of([pictures], "array", shard=f"{number}/2")
        assert part.shards == 2 - number
    again, same = shards_of([pictures], "array")
    assert again.shards_before == 3
    pd.testing.assert_frame_equal(rows, same)
    with pytest.raises(ConfigError, match="--shard 2/2: give K/N with K from 0"):
        shards_of([pictures], shard="2/2")


def test_more_unreadable_than_are_tolerated_is_one_line_and_the_rest_stays(pictures, shards_of, tmp_path):
    with pytest.raises(DataError, match=r"images that cannot be read: 1, 8\.3%.*more than --tolerate 0\.05"):
        shards_of([pictures], recipe={"tolerate": 0.05})
    assert len(pd.read_parquet(next((tmp_path / "out").glob("[0-9a-f]*")))) == 11


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"parts": True}, "--parts: is not written as parquet"),
        ({"captions": True}, "--captions"),
        ({"engine": "nothing"}, "engine 'nothing'"),
        ({"shard": "a"}, "--shard a: give K/N"),
    ],
)
def test_bad_wishes_are_one_line(pictures, shards_of, how, line):
    with pytest.raises(VladaptError, match=line):
        shards_of([pictures], **how)


def test_options_of_shards_without_shards_are_refused(pictures, backbones, tmp_path):
    with pytest.raises(ConfigError, match="--shard-size: is an option of shards; give --as parquet too"):
        embed(resolve(flags={"backbone": backbones["specs"][0]}), tmp_path / "a.npz", images=[pictures], shard_size=4)


def test_a_labelled_set_in_shards_is_a_feature_file(pictures, small_clip_spec, tmp_path):
    recipe = resolve(flags={"data": str(pictures), "backbone": small_clip_spec})
    written = embed(recipe, tmp_path / "shards", as_="parquet", shard_size=4, dtype="float32")
    embed(recipe, tmp_path / "file.safetensors")
    shards, file = load_features(written.folder), load_features(tmp_path / "file.safetensors")
    rows = {name: row for row, name in enumerate(file.features.ids)}
    order = [rows[name] for name in shards.features.ids]
    torch.testing.assert_close(shards.features.features, file.features.features[order], rtol=1e-4, atol=1e-5)
    assert shards.features.labels.tolist() == file.features.labels[order].tolist()
    assert list(shards.split) == [file.split[row] for row in order]
    assert shards.features.class_names == ("cat", "dog") and shards.features.backbone == file.features.backbone
    torch.testing.assert_close(shards.classifier.weights, file.classifier.weights)
    assert shards.classifier.logit_scale == pytest.approx(file.classifier.logit_scale)
    assert load_features(tmp_path / "shards").features.ids == shards.features.ids  # the only folder in it


def test_a_labelled_image_that_was_replaced_is_told(pictures, small_clip_spec, tmp_path, encoded_picture):
    import shutil

    shutil.copytree(pictures, tmp_path / "set")
    recipe = resolve(flags={"data": str(tmp_path / "set"), "backbone": small_clip_spec})
    embed(recipe, tmp_path / "shards", as_="parquet")
    (tmp_path / "set" / "dog" / "01.png").write_bytes(encoded_picture)
    with pytest.raises(DataError, match="made of other inputs than there are now"):
        embed(recipe, tmp_path / "shards", as_="parquet")


def test_other_texts_of_the_classes_are_another_folder(pictures, small_clip_spec, tmp_path):
    flags = {"data": str(pictures), "backbone": small_clip_spec}
    folders = {
        embed(resolve(flags={**flags, "templates": templates}), tmp_path / "shards", as_="parquet").folder
        for templates in (["a photo of a {}."], ["a drawing of a {}."])
    }
    assert len(folders) == 2


def test_captions_are_encoded_with_the_images_or_alone(small_clip_spec, encoded_picture, tmp_path):
    recipe = resolve(flags={"backbone": small_clip_spec})
    expected = load_backbone(small_clip_spec).encode_text(["a cat"], normalize=False)[0].numpy()
    rows = {"id": ["x", "y"], "caption": ["a cat", None]}
    pq.write_table(pa.table(rows), tmp_path / "texts.parquet")
    pq.write_table(pa.table({**rows, "image": [encoded_picture] * 2}), tmp_path / "both.parquet")
    how = {"as_": "parquet", "captions": True}
    alone = embed(recipe, tmp_path / "alone", images=[tmp_path / "texts.parquet"], **how)
    assert (alone.images, alone.unreadable) == (1, 1) and alone.skipped[0][1].endswith("no image and no text")
    both = embed(recipe, tmp_path / "both", images=[tmp_path / "both.parquet"], **how)
    for written, columns in ((alone, 3), (both, 4)):
        assert PairFeatures.of(written.folder).spec == small_clip_spec
        rows = pd.read_parquet(written.folder)
        assert len(rows.columns) == columns
        np.testing.assert_allclose(np.asarray(rows["caption_features"][0], np.float32), expected, rtol=2e-3, atol=2e-3)
    assert rows["caption_features"][1] is None and len(rows["image_features"][1]) == len(expected)
    with pytest.raises(ConfigError, match="no source has images; give --captions"):
        embed(recipe, tmp_path / "no", images=[tmp_path / "texts.parquet"], as_="parquet")


def test_polars_and_duckdb_read_what_pandas_reads(pictures, shards_of):
    polars, duckdb = pytest.importorskip("polars"), pytest.importorskip("duckdb")
    written, rows = shards_of([pictures])
    files = f"{written.folder}/*.parquet"
    frame = polars.read_parquet(files).sort("id")
    in_sql = duckdb.connect().execute(f"select id, image_features from '{files}' order by id").fetchall()
    expected = rows.sort_values("id")
    for ids, features in ((frame["id"].to_list(), frame["image_features"].to_list()), zip(*in_sql)):
        assert list(ids) == expected["id"].tolist()
        np.testing.assert_array_equal(matrix(features), matrix(expected["image_features"]))
