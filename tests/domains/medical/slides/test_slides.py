"""Sets of slides: which files are one, what their resolution is, and how they are shown."""

import json

import numpy as np
import pytest
from PIL import Image

from vladapt import load_domain
from vladapt.core.engine.embed import embed
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.features.bag_files import open_bag
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.medical.slides.reading import Slide

MEDICAL = load_domain("medical")


def read(folder, **options):
    return MEDICAL.read(folder, "classification", unit="slide", tile=64, **options)


@pytest.fixture
def slides(write_slide, tmp_path):
    """Two classes of two slides."""
    for name in ("set/a/1.tif", "set/a/2.tif", "set/b/3.tif", "set/b/4.tif"):
        write_slide(name, tissue=(slice(128, 384), slice(128, 512)))
    return tmp_path / "set"


def test_each_slide_is_a_sample_that_is_read_by_its_tiles_and_shown_whole(slides):
    data = read(slides)
    assert [(item.id, item.class_label()) for item in data.items] == [
        *(("a/1.tif", 0), ("a/2.tif", 0), ("b/3.tif", 1), ("b/4.tif", 1))
    ]
    tiles = data.tiles(data.items[0])
    assert len(tiles.coords) == 24 and tiles.read(range(3)).shape == (3, 64, 64, 3)
    shown = data.load(data.items[0])
    assert shown.shape == (512, 768, 3) and shown[0, 0].tolist() == [250] * 3
    assert MEDICAL.picture(data.items[0], data.load)["image"].shape == (512, 768, 3)


def test_the_longest_side_of_a_thumbnail_is_1024(write_slide, tmp_path):
    write_slide("set/a/1.tif", 1100, 2100), write_slide("set/b/2.tif", 1100, 2100)
    data = read(tmp_path / "set")
    assert data.load(data.items[0]).shape == (537, 1024, 3)


def test_another_cutting_is_another_content(slides):
    cuttings = [{}, {"mpp": 1.0}, {"tissue": 0.9}, {"slide_mpp": 0.4}]
    shown = [json.dumps(read(slides, **how).items[0].decode) for how in cuttings]
    assert len(set(shown)) == 3 and shown[0] == shown[3], "a resolution that the slide has itself is not replaced"


def test_a_slide_without_a_resolution_is_refused_and_how_to_give_it_is_said(write_slide, tmp_path):
    write_slide("set/a/1.tif", mpp=None), write_slide("set/b/2.tif")
    data = read(tmp_path / "set")
    assert [item.id for item in data.items] == ["b/2.tif"]
    assert data.skipped[0][0] == "a/1.tif" and "give --slide-mpp, or a column mpp in the table" in data.skipped[0][1]
    stated = read(tmp_path / "set", slide_mpp=0.25)
    assert [item.decode["slide_mpp"] for item in stated.items] == [0.25, 0.5]
    assert [data.tiles(item).attributes["level0_side"] for data in [stated] for item in data.items] == [128, 64]


def test_a_column_of_the_table_says_the_resolution(write_slide, tmp_path):
    for name, mpp in {"1.tif": None, "2.tif": 0.5, "3.tif": 0.5}.items():
        write_slide(name, mpp=mpp)
    table = tmp_path / "table.csv"
    table.write_text("file,label,MPP\n1.tif,a,0.25\n2.tif,b,0.4\n3.tif,b,\n")
    assert [item.decode["slide_mpp"] for item in read(table).items] == [0.25, 0.4, 0.5]
    table.write_text("file,label,mpp\n1.tif,a,large\n2.tif,b,0.4\n3.tif,b,\n")
    with pytest.raises(DataError, match=r"column mpp says 'large' of 1\.tif; give micrometres per pixel"):
        read(table)


def test_the_power_of_the_objective_is_a_guess_that_is_said(slides, monkeypatch):
    of = Slide.of.__func__
    guessed = classmethod(lambda cls, path: Slide(**{**vars(of(cls, path)), "mpp": None, "power": 20.0}))
    monkeypatch.setattr(Slide, "of", guessed)
    data = read(slides)
    assert data.items[0].decode["slide_mpp"] == 0.5
    assert "guessed from the objective: 4 slides, such as a/1.tif (20x: 0.5 micrometres per pixel)" in data.notes[-1]


def test_a_resolution_of_prints_is_none(write_slide):
    assert Slide.of(write_slide("a.tif", mpp=352.8)).mpp is None


def test_a_file_that_is_no_slide_is_left_out(slides):
    Image.new("RGB", (64, 64)).save(slides / "a" / "plain.tif")
    (slides / "a" / "broken.svs").write_bytes((slides / "a" / "1.tif").read_bytes()[:100])
    data = read(slides)
    assert len(data.items) == 4 and [name for name, _ in data.skipped] == ["a/broken.svs", "a/plain.tif"]
    assert data.skipped[1][1].startswith("is no slide that OpenSlide opens; give one (.svs")


def test_images_stay_images_and_slides_among_them_are_named(slides):
    for name in ("a/1.png", "b/1.png"):
        Image.new("RGB", (64, 64)).save(slides / name)
    (slides / "a" / "scan.ndpi").write_bytes(b"II*\0")
    data = MEDICAL.read(slides, "classification")
    assert data.tiles is None and len(data.items) == 6
    assert data.skipped == [("a/scan.ndpi", "a whole-slide image; read it with --unit slide")]


def test_kinds_that_are_refused_are_not_among_those_that_are_read(tmp_path):
    (tmp_path / "scan.ndpi").write_bytes(b"II*\0")
    with pytest.raises(DataError, match=r"scan\.ndpi: a whole-slide image; read it with --unit slide\)$"):
        MEDICAL.read_images([tmp_path])
    (tmp_path / "scan.ndpi").unlink()
    with pytest.raises(DataError) as refused:
        MEDICAL.read_images([tmp_path])
    kinds = str(refused.value).partition("known kinds: ")[2].split()
    assert {".dcm", ".png", ".tif"} <= set(kinds) and not {".ndpi", ".svs"} & set(kinds)


def test_a_slide_without_tissue_cannot_be_decoded_and_so_is_left_out_before_a_fit(slides, write_slide):
    write_slide("set/a/empty.tif", tissue=(slice(0), slice(0)))
    data = read(slides)
    with pytest.raises(DataError, match="has no tile of 64 pixels"):
        data.load(next(item for item in data.items if "empty" in item.id))


def test_regions_of_other_slides_are_refused_and_of_some_left_out(slides, tmp_path):
    square = [[[128, 128], [256, 128], [256, 256], [128, 256], [128, 128]]]
    (tmp_path / "of").mkdir()
    for name in ("1", "2", "3"):
        (tmp_path / "of" / f"{name}.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": square}))
    data = read(slides, regions=str(tmp_path / "of"))
    assert [item.id for item in data.items] == ["a/1.tif", "a/2.tif", "b/3.tif"]
    assert "has no file of this slide, 4.geojson" in data.skipped[0][1]
    assert len(data.tiles(data.items[0]).coords) == 4
    (tmp_path / "other.geojson").write_text((tmp_path / "of" / "1.geojson").read_text())
    with pytest.raises(ConfigError, match=r"is of none of the 4 slides of set; name it after its slide, such as 1\."):
        read(slides, regions=str(tmp_path / "other.geojson"))


def test_all_files_of_a_slide_count_for_its_content(tmp_path):
    from vladapt.domains.medical.slides.samples import _digest

    (tmp_path / "a").mkdir()
    (tmp_path / "a.mrxs").write_bytes(b"index"), (tmp_path / "a" / "Data0000.dat").write_bytes(b"pixels")
    before = _digest(tmp_path / "a.mrxs")
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"others")
    assert before is not None and _digest(tmp_path / "a.mrxs") != before
    (tmp_path / "b.vms").write_text("[Virtual Microscope Specimen]\nImageFile=b.jpg\n"), (tmp_path / "b.jpg").touch()
    before = _digest(tmp_path / "b.vms")
    (tmp_path / "b.jpg").write_bytes(b"others")
    assert _digest(tmp_path / "b.vms") != before and _digest(tmp_path / "c.svs") is None


def test_slides_are_for_classification_and_need_their_packages(slides, monkeypatch):
    with pytest.raises(ConfigError, match="--unit slide: is for --task classification"):
        MEDICAL.read(slides, "retrieval", unit="slide")
    monkeypatch.setattr("vladapt.domains.medical.slides.samples.find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=r"'openslide-python'; install it with: pip install 'vladapt\[slides\]'"):
        read(slides)


def test_the_sample_names_what_draws_it_where_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    spec_of = {"tifffile": None}
    monkeypatch.setattr("vladapt.domains.medical.slides.samples.find_spec", lambda name: spec_of.get(name, name))
    with pytest.raises(CapabilityError, match=r"needs the package 'tifffile'; install it with: .*vladapt\[slides\]"):
        MEDICAL.sample_as("classification", {"unit": "slide"})


def test_new_slides_are_read_without_labels(slides):
    data = MEDICAL.read_images([slides / "a", slides / "b" / "3.tif"], unit="slide", tile=64)
    assert len(data.items) == 3 and len(data.tiles(data.items[2]).coords) == 24


def test_one_tile_tells_the_classes_of_the_sample_apart_and_the_mean_does_not():
    from vladapt.domains.medical.slides.drawn import CLASSES, drawn_slide
    from vladapt.domains.medical.slides.tiles import tile_grid

    def dark(pixels):
        return np.array(
            [(pixels[y : y + 256, x : x + 256].max(axis=2) < 120).mean() for x, y in tile_grid(2048, 2048, 256)]
        )

    drawn = [drawn_slide(number) for number in (0, 1, 2, 3)]
    assert [label for _, label in drawn] == [CLASSES[0]] * 2 + [CLASSES[1]] * 2
    shares = np.array([dark(pixels) for pixels, _ in drawn])
    assert shares[:2].max(axis=1).min() > 3 * shares[2:].max()
    assert shares[2:].mean(axis=1).max() > shares[:2].mean(axis=1).max()


def test_the_sample_is_read_as_any_slides_and_cut_as_asked(tmp_path, monkeypatch):
    from vladapt import Recipe
    from vladapt.core.recipes.asked_for import read_data

    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr("vladapt.domains.medical.slides.drawn.COUNT", 4)
    recipe = Recipe(domain="medical", data={"path": "sample", "unit": "slide", "mpp": 1.0})
    data = read_data(recipe, MEDICAL, "classification")
    assert (
        data.class_names == ("lesion", "normal") and data.name == "drawn slides" and "drawn, not scans" in data.notes[0]
    )
    assert data.tiles(data.items[0]).attributes["level0_side"] == 512
    assert len(read_data(recipe.with_(data={"path": "sample"}), MEDICAL, "classification").items) == 300


def embedded(images, out, backbone, reading, **how):
    recipe = resolve(flags={"domain": "medical", "backbone": backbone, "device": "cpu", "data": reading})
    return embed(recipe, out, images=[images], as_="bags", **how)


def test_encoded_tiles_are_written_once_and_read_as_stored_ones(slides, small_clip_spec, tmp_path):
    made = embedded(slides, tmp_path / "bags", small_clip_spec, {"unit": "slide", "tile": 64})
    files = sorted((tmp_path / "bags").iterdir())
    assert (made.images, [file.name for file in files]) == (4, [f"{number}.safetensors" for number in range(1, 5)])
    cut = read(slides)
    for item, file in zip(cut.items, files):
        bag, tiles = open_bag(file), cut.tiles(item)
        assert bag.coords(0).tolist() == tiles.coords.tolist() and bag.attributes["mpp"] == tiles.attributes["mpp"]
        assert bag.read(0).shape == (len(tiles.coords), made.dim) and bag.encoder
    (tmp_path / "table.csv").write_text("slide_id,label\n1.tif,a\n2.tif,a\n3.tif,b\n4.tif,b\n")
    stored = MEDICAL.read(tmp_path / "table.csv", "classification", bags=str(tmp_path / "bags"))
    assert len(stored.items) == 4 and stored.bags.of(stored.items[0]).counts == open_bag(files[0]).counts


def test_bags_are_of_slides_each_with_a_name_of_its_own(slides, write_slide, small_clip_spec, tmp_path):
    out, reading = tmp_path / "bags", {"unit": "slide", "tile": 64}
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(CapabilityError, match="no sample here is cut into tiles; read slides"):
        embedded(tmp_path / "photo.png", out, small_clip_spec, {})
    with pytest.raises(ConfigError, match="omit --parts and --patch-tokens"):
        embedded(slides, out, small_clip_spec, reading, parts=True)
    write_slide("set/b/1.tif")
    with pytest.raises(ConfigError, match="several slides are called 1; embed them into folders"):
        embedded(slides, out, small_clip_spec, reading)
