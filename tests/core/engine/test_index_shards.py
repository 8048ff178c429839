"""An index from shards is the index of the same images: whatever the sources, the kind, and who writes the segments."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from forked import run_ranks
from PIL import Image

import vladapt
from vladapt.core.contracts.backbone import offered
from vladapt.core.engine.embed import embed
from vladapt.core.engine.index import index
from vladapt.core.errors import ConfigError, VladaptError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.retrieval import RetrievalIndex, sharded

pytest.importorskip("faiss", reason="extra retrieval is not installed")


class Means(torch.nn.Module):
    """Means of a grid of cells, and a weight by which two are told apart."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, pixels):
        return self.factor * torch.nn.functional.adaptive_avg_pool2d(pixels, 2).flatten(1)


@pytest.fixture(scope="module")
def spec():
    made = vladapt.Backbone.from_module(Means(), image_size=16, embed_dim=12)
    yield offered(made)


@pytest.fixture(scope="module")
def other_spec():
    made = vladapt.Backbone.from_module(Means(2.0), image_size=16, embed_dim=12)
    yield offered(made)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(numbers.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def index_of(tmp_path, spec):
    """`index_of(sources, name="an.index", **how)`: what was made, and the index."""

    def make(sources, name="an.index", backbone=spec, **how):
        recipe = resolve(flags={"backbone": backbone, **how.pop("recipe", {})})
        made = index(recipe, tmp_path / name, images=[str(each) for each in sources], shard_size=7, **how)
        return made, RetrievalIndex.open(tmp_path / name)

    return make


@pytest.fixture
def alone(tmp_path, spec, pictures):
    """`alone(**how)`: the index of the pictures that one process makes without shards."""

    def make(**how):
        made = index(resolve(flags={"backbone": spec}), tmp_path / "alone.index", images=[pictures], **how)
        assert made.segments == 1
        return RetrievalIndex.open(tmp_path / "alone.index")

    return make


def found(opened, queries, top=5):
    """Of each query the names and cosines of the nearest."""
    hits = opened.search_many(queries, top)
    return [[Path(hit.entry.id.rpartition(":")[2]).stem for hit in some] for some in hits], np.array(
        [[hit.score for hit in some] for some in hits]
    )


@pytest.fixture(scope="module")
def queries():
    return torch.nn.functional.normalize(torch.randn(9, 12, generator=torch.Generator().manual_seed(0)), dim=1)


def same(one, other, queries):
    names, scores = found(one, queries)
    others, cosines = found(other, queries)
    np.testing.assert_allclose(scores, cosines, atol=1e-5)
    assert names == others


def packed(pictures, folder):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for file in sorted(pictures.iterdir())[:25]:
            archive.add(file, file.name)
    rest = sorted(pictures.iterdir())[25:]
    columns = {"id": [file.stem for file in rest], "image": [file.read_bytes() for file in rest]}
    pq.write_table(pa.table({**columns, "text": ["a picture"] * len(rest)}), folder / "b.parquet")
    return folder / "a.tar", folder / "b.parquet"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-pq"])
def test_tars_tables_and_stores_make_the_index_of_their_images(
    pictures, index_of, alone, queries, tmp_path, monkeypatch, kind, s3_server
):
    monkeypatch.setattr(sharded, "SEGMENT_ROWS", 15)
    tar, table = packed(pictures, tmp_path)
    s3_server.mkdir("indexed")
    s3_server.put_file(str(tar), "indexed/a.tar")
    made, opened = index_of(["s3://indexed/a.tar", table], kind=kind)
    s3_server.rm("indexed", recursive=True)
    assert (made.entries, made.added, made.encoded, made.segments) == (40, 40, 40, 1 if kind == "hnsw" else 2)
    assert [len(list(each.path.iterdir())) > 3 for each in opened.segments]
    same(opened, alone(kind=kind), queries)
    assert opened.entries[39].captions == ("a picture",) and opened.entries[0].id == "a:00"
    opened.verify()
    assert not (tmp_path / "an.index" / "work").exists() and not (tmp_path / ".an.index.features").exists()


def test_ranks_take_shards_and_write_the_index_of_one_process(pictures, small_clip_spec, index_of, tmp_path):
    """Processes, since ranks are; whoever else runs tasks is tested where executors are."""
    options = ["--backbone", small_clip_spec, "--device", "cpu", "--shard-size", "7", "--kind", "ivf-sq8"]
    for done in run_ranks(["-m", "vladapt", "index", pictures, *options, "--out", "two.index"], cwd=tmp_path):
        assert done.returncode == 0, done.stderr
    features = str(tmp_path / "features")
    index_of([pictures], "one.index", small_clip_spec, kind="ivf-sq8", features=features, recipe={"device": "cpu"})
    one, two = (json.loads((tmp_path / f"{name}.index" / "index.json").read_text()) for name in ("one", "two"))
    assert one["segments"] == two["segments"] and one["quantiser"] == two["quantiser"] and one["entries"] == 40


def test_standing_features_are_used_as_they_are(pictures, index_of, spec, queries, alone, tmp_path):
    recipe = resolve(flags={"backbone": spec})
    embed(recipe, tmp_path / "features", images=[str(pictures)], as_="parquet", shard_size=9, dtype="float32")
    made, opened = index_of([pictures], features=str(tmp_path / "features"))
    assert (made.encoded, made.from_store, made.entries) == (0, 40, 40)
    same(opened, alone(), queries)
    without, same_rows = index_of([], "without.index", features=str(tmp_path / "features"))
    assert (without.encoded, without.entries) == (0, 40)
    same(same_rows, opened, queries)


def test_features_of_another_encoder_are_refused(pictures, index_of, spec, other_spec, tmp_path):
    embed(resolve(flags={"backbone": other_spec}), tmp_path / "features", images=[str(pictures)], as_="parquet")
    for sources in ([pictures], []):
        with pytest.raises(VladaptError, match=r"features: features of encoder [0-9a-f]{12}, not of"):
            index_of(sources, features=str(tmp_path / "features"))
    assert not (tmp_path / "an.index").exists()


def test_a_killed_command_continues_with_the_features_that_are_there(pictures, index_of, tmp_path, monkeypatch):
    tar, _ = packed(pictures, tmp_path)
    from vladapt.core.engine import index_shards

    def killed(*given, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(index_shards, "take_segments", killed)
        index_of([tar, pictures / "30.png"])
    assert not (tmp_path / "an.index").exists()
    made, _ = index_of([tar, pictures / "30.png"])
    assert (made.encoded, made.from_store, made.entries) == (0, 26, 26)


def test_a_second_command_does_not_take_the_features_of_one_at_work(pictures, index_of, tmp_path, monkeypatch):
    tar, _ = packed(pictures, tmp_path)
    from vladapt.core.engine import index_shards

    take, refused = index_shards.take_segments, []

    def meanwhile(*given, **how):
        with pytest.raises(ConfigError, match=r"an\.index: another process is changing this index; wait for") as line:
            index_of([tar, pictures / "30.png"])
        refused.append(line)
        return take(*given, **how)

    monkeypatch.setattr(index_shards, "take_segments", meanwhile)
    made, _ = index_of([tar, pictures / "30.png"])
    assert refused and made.entries == 26
    assert [path.name for path in tmp_path.iterdir() if "an.index" in path.name] == ["an.index"]


def test_a_single_tar_without_captions_is_indexed_too(pictures, index_of, tmp_path):
    tar, _ = packed(pictures, tmp_path)
    assert index_of([tar])[0].entries == 25


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_shards_are_added_and_what_is_there_is_left_out(pictures, index_of, tmp_path, kind, queries):
    tar, table = packed(pictures, tmp_path)
    index_of([table, pictures / "00.png", pictures / "01.png"], kind=kind, features=str(tmp_path / "first"))
    made, opened = index_of([tar, table], add=True, only_new=True)
    assert (made.added, made.already_there, made.entries, made.segments) == (25, 15, 42, 2)
    assert {entry.id for entry in opened.entries} >= {"a:00", "25", str(pictures / "00.png")}
    again, _ = index_of([tar, table], add=True, only_new=True)
    assert (again.added, again.already_there, again.segments) == (0, 40, 2)


@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"shard": "0/2"}, "--shard 0/2: features are made in parts, an index is not"),
        ({"processes": 2}, "known to this process alone"),
        ({"sources": ["s3://nowhere-at-all/a.tar"]}, "nowhere-at-all"),
        ({"compact": True, "sources": [], "engine": "ray"}, "--engine: cannot be given together with --compact"),
        ({"features": "empty", "sources": []}, "no whole features of images in it"),
    ],
)
def test_what_cannot_be_done_is_one_line(pictures, index_of, tmp_path, how, line, s3_server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VladaptError, match=line):
        index_of(how.pop("sources", [pictures]), **how)
    assert not (tmp_path / "an.index").exists()
