"""Sets of slides whose tile features are stored, and slides that are encoded some tiles at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.items import DomainData, Item, Label
from vladapt.core.errors import CacheError, CapabilityError, ConfigError, DataError
from vladapt.core.features import bag_extraction
from vladapt.core.features.bag_extraction import bags_of_items
from vladapt.core.features.bag_files import write_bag
from vladapt.core.features.bag_sets import BagFolder, tile_layout
from vladapt.core.features.store import FeatureStore

TABLE = "case_id,slide_id,label\np1,a,no\np1,b,no\np2,c,yes\np3,d,yes\n"


def bags_in(
    folder: Path, names: Sequence[str] = "abcd", width: int = 4, encoder: str = "", **attributes: float
) -> Path:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        rows = torch.randn(number + 2, width, generator=torch.Generator().manual_seed(number))
        write_bag(folder / f"{name}.safetensors", rows, np.arange(2 * len(rows)).reshape(-1, 2), attributes, encoder)
    return folder


@pytest.fixture
def table(tmp_path) -> Path:
    (path := tmp_path / "table.csv").write_text(TABLE)
    return path


def test_clam_s_table_names_slides_by_their_stems_and_patients_by_their_cases(tmp_path, table):
    data = BagFolder(bags_in(tmp_path / "bags")).read(table)
    assert [item.id for item in data.items] == list("abcd") and data.class_names == ("no", "yes")
    groups = [item.group for item in data.items]
    assert groups[0] == groups[1] != groups[2] and "p1" not in groups
    assert data.bags.backbone == "tiles:4" and data.bags.of(data.items[1]).counts == (3,)
    assert data.load(data.items[0]).shape[2] == 3


def test_slides_and_files_without_the_other_are_told(tmp_path, table):
    table.write_text(TABLE + "p4,e,no\n")
    data = BagFolder(bags_in(tmp_path / "bags", "abcdz")).read(table)
    assert data.skipped == [("e", f"no such file below {tmp_path / 'bags'}")]
    assert "Slides without stored features: 1 (e)." in data.notes
    assert "Stored features that the data do not list: 1 (z)." in data.notes


def test_slides_of_a_patient_are_one_sample(tmp_path, table):
    data = BagFolder(bags_in(tmp_path / "bags"), joined=True).read(table)
    assert [item.id for item in data.items] == list("acd") and any(
        "Patients: 3, of 4 slides." in note for note in data.notes
    )
    assert data.bags.of(data.items[0]).counts == (5,)
    table.write_text(TABLE.replace("p1,b,no", "p1,b,yes"))
    with pytest.raises(DataError, match="'a' and 'b' are of one patient, and of different classes"):
        BagFolder(tmp_path / "bags", joined=True).read(table)
    table.write_text("slide_id,label\na,no\nb,no\nc,yes\nd,yes\n")
    with pytest.raises(ConfigError, match="nothing says whose the slides"):
        BagFolder(tmp_path / "bags", joined=True).read(table)


def test_new_slides_are_joined_by_barcode_and_others_stay_alone(tmp_path):
    names = [f"TCGA-3C-AALI-01Z-00-DX{n}" for n in (1, 2)]
    folder = bags_in(tmp_path / "bags", ["a", "b"])
    data = BagFolder(joined=True).read_new([folder])
    assert [data.bags.of(item).counts for item in data.items] == [(2,), (3,)]
    data = BagFolder(joined=True).read_new([bags_in(folder, names)])
    assert sorted(data.bags.of(item).counts for item in data.items) == [(2,), (3,), (5,)]


def test_a_damaged_file_that_is_listed_with_its_ending_is_not_told_as_unlisted(tmp_path, table):
    folder = bags_in(tmp_path / "bags")
    (folder / "b.safetensors").write_bytes(b"damaged")
    table.write_text("slide_id,label\na.svs,no\nb.svs,no\nc.svs,yes\nd.svs,yes\n")
    data = BagFolder(folder).read(table)
    assert [name for name, _ in data.skipped] == ["b.svs"] and not any("do not list" in note for note in data.notes)


def test_barcodes_of_the_atlas_say_whose_a_slide_is(tmp_path):
    names = [f"TCGA-3C-AAL{k}-01Z-00-DX{n}.F6E9-A5DF" for k in "IJ" for n in (1, 2)]
    folder = bags_in(tmp_path / "bags", "")
    for name in names:
        write_bag(folder / f"{name}.safetensors", torch.randn(3, 4), None, {})
    rows = "\n".join(f"{name},{label}" for name, label in zip(names, ("no", "no", "yes", "yes")))
    (table := tmp_path / "table.csv").write_text(f"slide_id,label\n{rows}\n")
    groups = [item.group for item in BagFolder(folder).read(table).items]
    assert groups[0] == groups[1] != groups[2] == groups[3] and "TCGA" not in "".join(groups)


def test_clam_s_splits_are_kept_and_what_they_do_not_list_is_left_out(tmp_path, table):
    (splits := tmp_path / "splits_0.csv").write_text(",train,val,test\n0,a,b,c\n")
    data = BagFolder(bags_in(tmp_path / "bags"), splits=splits).read(table)
    assert {item.id: item.split for item in data.items} == {"a": "train", "b": "val", "c": "test"}
    assert "Slides that splits_0.csv does not list, left out: 1." in data.notes
    splits.write_text(",train,val,test\n0,a,a,c\n")
    with pytest.raises(DataError, match="slide a is in train and in val"):
        BagFolder(tmp_path / "bags", splits=splits).read(table)


def test_class_folders_and_new_files_are_read_too(tmp_path):
    for name, slides in (("no", "ab"), ("yes", "cd")):
        bags_in(tmp_path / "set" / name if (tmp_path / "set").mkdir(exist_ok=True) is None else tmp_path, slides)
    assert BagFolder.are_class_folders(tmp_path / "set", ())
    data = BagFolder().read(tmp_path / "set")
    assert [item.id for item in data.items] == [
        f"{c}/{s}.safetensors" for c, s in zip(["no"] * 2 + ["yes"] * 2, "abcd")
    ]
    new = BagFolder().read_new([tmp_path / "set" / "no"])
    assert len(new.items) == 2 and new.bags.of(new.items[0]).dim == 4


def test_features_of_another_encoder_than_most_are_left_out(tmp_path, table):
    folder = bags_in(tmp_path / "bags")
    bags_in(folder, "d", width=5)
    data = BagFolder(folder).read(table)
    assert data.skipped == [("d", "features are 5 wide, most are 4 wide; encode all alike")]
    bags_in(folder, encoder="uni")
    assert BagFolder(folder).read(table).bags.backbone == "tiles:4,uni"


def test_no_backbone_is_loaded_by_what_a_file_of_features_says(tmp_path, table):
    folder = bags_in(tmp_path / "bags")
    for name in "abcd":
        write_bag(folder / f"{name}.safetensors", torch.randn(3, 4), None, {}, "print", "timm:hf-hub:other/model")
    assert BagFolder(folder).read(table).bags.backbone == "tiles:4,print"


def test_coarser_bags_are_a_second_scale(tmp_path, table):
    coarse = bags_in(tmp_path / "low", "dcba")
    data = BagFolder(bags_in(tmp_path / "bags"), coarse).read(table)
    assert data.bags.of(data.items[0]).counts == (2, 5)


def test_coarser_bags_of_another_encoder_or_a_finer_cutting_are_left_out(tmp_path, table):
    fine, coarse = bags_in(tmp_path / "bags", encoder="uni"), bags_in(tmp_path / "low", encoder="uni")
    rows, sides = torch.randn(3, 4), {"a": (512, 2048), "b": (2048, 512)}
    for name, (finer, coarser) in sides.items():
        write_bag(fine / f"{name}.safetensors", rows, None, {"side": 256, "level0_side": finer}, "uni")
        write_bag(coarse / f"{name}.safetensors", rows, None, {"side": 256, "level0_side": coarser}, "uni")
    write_bag(coarse / "c.safetensors", rows, None, {}, "conch")
    data = BagFolder(fine, coarse).read(table)
    assert [item.id for item in data.items] == ["a", "d"]
    reasons = dict(data.skipped)
    assert "give the higher magnification as --bags" in reasons["b"] and "features are of conch" in reasons["c"]


def test_a_slide_whose_name_has_a_dot_is_not_taken_for_another(tmp_path, table):
    folder = bags_in(tmp_path / "bags", ["s", "t.1", "u.1", "v"])
    table.write_text("slide_id,label\ns.1,no\nt.1,no\nu.1.svs,yes\nscans/v.ndpi,yes\n")
    data = BagFolder(folder).read(table)
    assert [item.source.stem for item in data.items] == ["t.1", "u.1", "v"]
    assert [name for name, _ in data.skipped] == ["s.1"]
    (splits := tmp_path / "splits_0.csv").write_text(",train,val,test\n0,t.1,u.1.svs,v\n")
    assert [item.split for item in BagFolder(folder, splits=splits).read(table).items] == ["train", "val", "test"]


@pytest.mark.parametrize("side", [1024, 2048])
def test_magnifications_that_are_exchanged_or_the_same_are_refused(tmp_path, table, side):
    coarse = bags_in(tmp_path / "low", side=256, level0_side=1024)
    data = BagFolder(bags_in(tmp_path / "high", side=256, level0_side=side), coarse).read(table)
    assert not data.items and [name for name, _ in data.skipped] == list("abcd")
    assert f"downsampled by 4, no more than those of {tmp_path / 'high'}" in data.skipped[0][1]
    larger_tiles = bags_in(tmp_path / "high", side=1024, level0_side=1024)
    assert len(BagFolder(larger_tiles, coarse).read(table).items) == 4


def extraction(data: DomainData, root: Path):
    backbone = load_backbone(data.bags.backbone, "cpu")
    return bags_of_items(data, data.items, backbone, None, FeatureStore(root))


def test_a_mean_is_read_from_the_store_and_the_same(tmp_path, table, monkeypatch):
    data = BagFolder(bags_in(tmp_path / "bags")).read(table)
    first = extraction(data, tmp_path / "features").features
    assert torch.equal(first.features, first.stored_bags.means()) and first.labels.tolist() == [0, 0, 1, 1]
    monkeypatch.setattr(bag_extraction, "mean_of_rows", None)  # no bag is read again
    assert torch.equal(extraction(data, tmp_path / "features").features.features, first.features)


def test_a_bag_of_nan_is_left_out(tmp_path, table):
    folder = bags_in(tmp_path / "bags")
    write_bag(folder / "b.safetensors", torch.full((2, 4), torch.nan), None, {})
    found = extraction(BagFolder(folder).read(table), tmp_path / "features")
    assert [item.id for item in found.items] == list("acd")
    assert found.skipped == [("b", "features hold NaN or infinity; encode the slide again")]


@dataclass
class DrawnTiles:
    """Grey tiles, each of its own value."""

    values: list[int]
    reads: list[range] = field(default_factory=list)
    stop_at: int | None = None

    coords = property(lambda self: np.arange(2 * len(self.values)).reshape(-1, 2))
    attributes = property(lambda self: {"side": 4})

    def read(self, rows):
        if self.stop_at is not None and rows.start >= self.stop_at:
            raise KeyboardInterrupt
        self.reads.append(rows)
        return np.stack([np.full((4, 4, 3), self.values[row], np.uint8) for row in rows])


class Grey:
    """A tower whose feature of a tile is its value, twice."""

    spec, fingerprint, embed_dim, device, joint = "grey", "grey-print", 2, torch.device("cpu"), None
    model, of_parts = None, False

    def encode_image(self, pixels, normalize):
        return pixels.flatten(1)[:, :2]


class Values:
    spec = "values"

    def __call__(self, tile):
        return torch.from_numpy(tile.astype(np.float32)).permute(2, 0, 1)


@pytest.fixture
def slides(tmp_path):
    return slides_in(tmp_path)


def slides_in(tmp_path: Path):
    tiles = {"a": DrawnTiles(list(range(10))), "b": DrawnTiles(list(range(100, 107)))}
    for name in tiles:
        (tmp_path / name).write_text(name)
    items = [Item(name, tmp_path / name, target=Label(number)) for number, name in enumerate(tiles)]
    data = DomainData(items, ("no", "yes"), load=None, tiles=lambda item: tiles[item.id])
    return data, tiles


def encoded(data: DomainData, root: Path, progress=None, **how):
    how = {"batch_size": 4, "workers": 1, "progress": progress, **how}
    return bags_of_items(data, data.items, Grey(), Values(), FeatureStore(root), **how)


def test_tiles_are_encoded_some_at_a_time_and_each_slide_once(tmp_path, slides):
    data, tiles = slides
    told = []
    found = encoded(data, tmp_path / "cache" / "features", lambda *done: told.append(done))
    assert found.computed == 2 and told[-1] == (17, 17) and max(len(rows) for rows in tiles["a"].reads) == 4
    assert torch.equal(found.features.bags[1], torch.arange(100.0, 107)[:, None].expand(-1, 2))
    assert found.features.bags.attributes(0) == {"side": 4}
    assert torch.equal(found.features.features, found.features.bags.means())
    before = len(tiles["a"].reads)
    again = encoded(data, tmp_path / "cache" / "features")
    assert again.computed == 0 and len(tiles["a"].reads) == before
    assert torch.equal(again.features.features, found.features.features)


def test_a_process_that_is_stopped_goes_on_at_the_next_slide(tmp_path, slides):
    data, tiles = slides
    tiles["b"].stop_at = 4
    with pytest.raises(KeyboardInterrupt):
        encoded(data, tmp_path / "cache" / "features")
    tiles["b"].stop_at, tiles["a"].reads = None, []
    assert encoded(data, tmp_path / "cache" / "features").computed == 1 and tiles["a"].reads == []


def test_the_mean_of_a_slide_is_of_the_tiles_as_they_were_encoded(tmp_path, slides):
    data, root = slides[0], tmp_path / "cache" / "features"
    encoded(data, root)

    class Doubled(Values):
        spec = "doubled values"

        def __call__(self, tile):
            return 2 * super().__call__(tile)

    found = bags_of_items(data, data.items, Grey(), Doubled(), FeatureStore(root))
    assert torch.equal(found.features.features, found.features.bags.means())
    found = encoded(data, root, amp="bf16")
    assert torch.equal(found.features.features, found.features.bags.means())


def test_slides_that_cannot_be_cut_are_not_counted_among_the_encoded(tmp_path, slides):
    data, tiles = slides
    del tiles["a"]

    def cut(item):
        if item.id not in tiles:
            raise DataError(f"{item.source}: has no tile")
        return tiles[item.id]

    found = encoded(replace(data, tiles=cut), tmp_path / "cache" / "features")
    assert (found.computed, found.cached) == (1, 0) and [name for name, _ in found.skipped] == ["a"]


def test_a_cache_that_cannot_be_written_ends_the_run_and_skips_no_slide(tmp_path, slides):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bags").write_text("a file in place of the folder")
    with pytest.raises(CacheError, match="cannot be written there"):
        encoded(slides[0], tmp_path / "cache" / "features")


def test_tiles_have_no_views(tmp_path, slides):
    with pytest.raises(CapabilityError, match="neither augmented views nor another tap"):
        encoded(slides[0], tmp_path / "features", views=2)


def test_the_map_of_tiles_shows_where_they_lie():
    drawn = tile_layout(torch.tensor([[0, 0], [512, 0], [0, 1024]]), 3, 512)
    scale = drawn.shape[1] // 4
    assert (drawn[::scale, ::scale, 0][1:-1, 1:-1] == np.array([[128, 128], [255, 255], [128, 255]])).all()
    assert (tile_layout(None, 5, None) == 128).any()
