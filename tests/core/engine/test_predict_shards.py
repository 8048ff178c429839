"""A run's answers as shards: those of `predict`, whatever the sources and whoever runs them."""

import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import vladapt
from vladapt.core.errors import CapabilityError, VladaptError
from vladapt.core.shards import ShardPlace, jobs_below


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Nine images of each of two classes, told apart by their colour, and a file that is none."""
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(18):
        label = number % 2
        pixels = numbers.integers(0, 120, (20, 24, 3), np.uint8)
        pixels[..., 2 * label] += 100
        file = folder / ("cat", "dog")[label] / f"{number:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)
    (folder / "dog" / "bad.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def run(pictures, small_clip_spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    how = {"tolerate": 1.0, "device": "cpu", "shots": 4, "adapter": "tip-adapter"}
    return vladapt.fit(data=str(pictures), backbone=small_clip_spec, out=str(out / "run"), **how).run


@pytest.fixture
def shards_of(run, tmp_path):
    """`shards_of(sources, name="out", **how)`: what was written, and its rows."""

    def make(sources, name="out", of=run, **how):
        how = {"outputs": "parquet", "shard_size": 5, "device": "cpu", **how}
        made = vladapt.predict(of, [str(each) for each in sources], out=tmp_path / name, **how)
        return made, pd.read_parquet(made.folder)

    return make


def test_shards_have_the_answers_of_predict(run, pictures, shards_of):
    wishes = {"coverage": 0.9, "max_error": 0.2}
    made, rows = shards_of([pictures], **wishes)
    assert (made.images, made.shards, made.unreadable) == (18, 4, 1)
    assert made.skipped[0][0] == f"{pictures}/dog/bad.png"
    plain = vladapt.predict(run, [pictures], device="cpu", **wishes)
    expected = {row["id"]: (row, probs) for row, probs in zip(plain.rows(), plain.probabilities)}
    assert [row["id"] for row in made.rows()] == rows["id"].tolist() and len(made.files) == made.shards
    assert set(rows["id"]) == set(expected) and {"set", "open"} <= set(rows.columns)
    for _, row in rows.iterrows():
        answer, probs = expected[row["id"]]
        for name in set(answer) - {"top", "confidence", "id"}:
            assert np.array_equal(row[name], answer[name]), name
        assert row["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
        np.testing.assert_allclose([row["cat"], row["dog"]], probs, atol=1e-5)


def packed(pictures, folder):
    """The same images in a tar and in a table, and their ids in each."""
    files = sorted(pictures.rglob("*.png"))
    with tarfile.open(folder / "set.tar", "w") as archive:
        for file in files:
            archive.add(file, file.name)
    columns = {"id": [file.stem for file in files], "image": [file.read_bytes() for file in files]}
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "set.tar", folder / "table.parquet"


def test_tars_tables_and_object_stores_give_the_same_answers(pictures, shards_of, tmp_path, s3_server):
    tar, table = packed(pictures, tmp_path)
    s3_server.mkdir("predicted")
    s3_server.put_file(str(tar), "predicted/set.tar")
    columns = ["label", "confidence", "cat", "dog"]
    expected = shards_of([pictures])[1].assign(id=lambda rows: rows["id"].str[-6:-4]).set_index("id")[columns]
    for number, source in enumerate((tar, table, "s3://predicted/set.tar")):
        made, rows = shards_of([source], f"out{number}")
        assert (made.images, made.unreadable) == (18, 1)
        rows = rows.assign(id=rows["id"].str[-2:]).set_index("id")[columns]
        pd.testing.assert_frame_equal(rows.sort_index(), expected.sort_index(), rtol=1e-5, atol=1e-5)


def test_the_same_command_continues_and_other_wishes_are_another_folder(pictures, shards_of, tmp_path):
    made, rows = shards_of([pictures], threshold=0.4)
    again, same = shards_of([pictures], threshold=0.4)
    assert (again.folder, again.shards_before) == (made.folder, 4)
    pd.testing.assert_frame_equal(rows, same)
    other, _ = shards_of([pictures], threshold=0.6)
    assert other.folder != made.folder and other.shards_before == 0
    assert {job.stage for job in jobs_below(ShardPlace(str(tmp_path / "out")))} == {"predict"}


def test_parts_of_an_array_on_fewer_cores_have_the_bytes_of_the_whole(pictures, shards_of, tmp_path):
    made, _ = shards_of([pictures])
    for number in range(2):
        shards_of([pictures], "array", shard=f"{number}/2", workers=1)
    for name in ("part-00000000.parquet", "part-00000003.parquet"):
        files = [tmp_path / out / made.folder.rpartition("/")[2] / name for out in ("out", "array")]
        assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"explain": True}, "--explain: explanations are written to a page"),
        ({"stream": True}, "--stream: shards know nothing of each other"),
        ({"per_patient": "mean"}, "--per-patient: the images of a subject"),
        ({"top": 2}, "--top: each class has a column"),
        ({"outputs": "csv,parquet"}, "--as parquet: writes one folder, and nothing else"),
        ({"outputs": None}, "--shard-size: is an option of shards; give --as parquet too"),
        ({"tolerate": 0.01}, "images that cannot be read: 1, 5.3%"),
        ({"engine": "nothing"}, "engine 'nothing'"),
    ],
)
def test_bad_wishes_are_one_line(pictures, shards_of, how, line):
    with pytest.raises(VladaptError, match=line):
        shards_of([pictures], **how)


def test_a_method_that_reads_all_images_at_once_is_refused(pictures, small_clip_spec, shards_of, tmp_path):
    flags = {"backbone": small_clip_spec, "shots": 0, "adapter": "stat-a", "judge": False, "tolerate": 1.0}
    other = vladapt.fit(data=str(pictures), out=str(tmp_path / "run"), device="cpu", **flags).run
    with pytest.raises(CapabilityError, match="reads all images together, so an answer would depend on the shard"):
        shards_of([pictures], of=other)
