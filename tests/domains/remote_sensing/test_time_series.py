"""Several dates of one place as the parts of one sample."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt.core.backbones.preprocessing import EachPart
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.places import item_place

pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")

DAYS = ("20210601", "20200601", "20220601")


def picture(value, side=8):
    return np.full((3, side, side), value, np.uint8)


@pytest.fixture
def seasons(write_raster, tmp_path):
    """Two classes of three places; the last place of each has two dates, all others three. The value says class, place
    and date."""
    for label, name in enumerate(("Forest", "Field")):
        for place in range(3):
            for number, day in enumerate(DAYS[: 2 if place == 2 else 3]):
                value = 100 * label + 10 * place + int(day[3])
                file = (
                    f"s/{name}/p{place}_{day}.tif"
                    if number
                    else f"s/{name}/p{place}-{day[:4]}-{day[4:6]}-{day[6:]}.tif"
                )
                write_raster(file, picture(value), left=500_000 + 20_000 * (3 * label + place))
    return tmp_path / "s"


def read(path, **options):
    return RemoteSensing().read(path, "classification", time_series=True, **{"block_size": 0, **options})


def test_dates_of_a_place_are_parts_in_their_order(seasons):
    data = read(seasons)
    assert len(data.items) == 6 and "6 places of 2 to 3 dates" in data.notes[-1]
    for item in data.items:
        decoded = data.load(item)
        label, place = not item.id.startswith("Forest"), int(item.id[-1])
        days = ["2020-06-01", "2021-06-01", "2022-06-01"][: len(decoded)]
        assert decoded.shape == (2 if place == 2 else 3, 8, 8, 3)
        assert decoded[:, 0, 0, 0].tolist() == [100 * label + 10 * place + int(day[3]) for day in days]
        assert list(RemoteSensing().part_names(item, len(decoded))) == days
    assert len(RemoteSensing().read(seasons, "classification", block_size=0).items) == 16


def test_places_of_a_series_are_split_by_place(seasons):
    data = read(seasons, block_size=None)
    assert data.blocks and all(item.group for item in data.items) and item_place(data.items[0]).crs


def test_what_decides_about_the_pixels_is_in_the_key_of_the_features(seasons, write_raster):
    before = {item.id: item.decode["digest"] for item in read(seasons).items}
    write_raster("s/Forest/p1_20220601.tif", picture(77), left=520_000)
    after = {item.id: item.decode["digest"] for item in read(seasons).items}
    assert {name for name in before if before[name] != after[name]} == {"Forest/p1"}


def test_methods_get_the_parts_with_a_mask_or_their_mean(seasons, small_clip, tmp_path):
    from vladapt.core.features.store import FeatureStore

    data = read(seasons)
    store, transform = FeatureStore(tmp_path / "store"), RemoteSensing().transforms(small_clip, False)
    assert isinstance(transform, EachPart)
    found = store.get_or_compute(data, data.items, small_clip, transform, parts=True).features
    counts = [2 if item.id.endswith("2") else 3 for item in data.items]
    assert found.parts.shape[:2] == (6, 3) and found.parts_mask.sum(dim=1).tolist() == counts
    k = counts.index(2)
    mean = found.parts[k, :2].mean(dim=0)
    np.testing.assert_allclose(found.features[k], mean, atol=1e-5)


def test_a_table_says_place_and_date(tmp_path):
    rows = ["image,label,Place,date"]
    for k, (place, day) in enumerate([("lake", "2021-05-01"), ("hill", "20210501"), ("lake", "2020-05-01")]):
        Image.fromarray(picture(50 + k).transpose(1, 2, 0)).save(tmp_path / f"{k}.png")
        rows.append(f"{k}.png,{'water' if place == 'lake' else 'land'},{place},{day}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    data = read(tmp_path / "t.csv")
    by_id = {item.id: data.load(item)[:, 0, 0, 0].tolist() for item in data.items}
    assert by_id == {"lake": [52, 50], "hill": [51]}


def test_new_places_are_read_as_those_of_the_fit(seasons):
    data = RemoteSensing().read_images([seasons / "Field"], time_series=True)
    assert [len(data.load(item)) for item in data.items] == [3, 3, 2]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("p0_20230601", {"left": 500_040}, r"p0_20230601\.tif: its grid differs from that of p0_20200601\.tif"),
        ("p0_20230601", {"side": 6}, r"p0_20230601\.tif: its grid differs from that of p0_20200601\.tif"),
        ("p0_20230601", {"crs": "EPSG:32632"}, r"p0_20230601\.tif: its grid differs"),
        ("p0-20200601", {}, r"\.tif: of the same place and date as p0.20200601\.tif; remove one"),
        ("p0", {}, r"p0\.tif: has no date in its name"),
    ],
)
def test_dates_that_do_not_fit_each_other_are_one_line(seasons, write_raster, name, change, words):
    stored = picture(9, change.pop("side", 8))
    write_raster(f"s/Forest/{name}.tif", stored, **{"left": 500_000, **change})
    with pytest.raises(DataError, match=words):
        read(seasons)


def test_a_place_of_two_classes_and_a_date_that_is_none_are_one_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "b.png")
    for rows, words in (
        ("a.png,x,lake,2020-01-01\nb.png,y,lake,2021-01-01", r"b\.png: its class differs from that of a\.png"),
        ("a.png,x,lake,2020-01-01\nb.png,y,hill,summer", r"b\.png has the date 'summer'; write dates as"),
        ("a.png,x,lake,\nb.png,y,hill,2020-01-01", r"a\.png has the date ''; write dates as"),
        ("a.png,x,lake,today\nb.png,y,hill,NaT", r"a\.png has the date 'today'; write dates as"),
        ("a.png,x,,2020-01-01\nb.png,y,hill,2020-01-01", r"a\.png has no place"),
    ):
        (tmp_path / "t.csv").write_text(f"image,label,place,date\n{rows}\n")
        with pytest.raises(DataError, match=words):
            read(tmp_path / "t.csv")


def test_names_that_are_dates_alone_are_dates_of_one_place(seasons, write_raster):
    for day in DAYS:
        write_raster(f"one/{day}.tif", picture(int(day[3])))
    data = RemoteSensing().read_images([seasons.parent / "one"], time_series=True)
    assert [len(data.load(item)) for item in data.items] == [3]


def test_where_a_series_means_nothing_it_is_refused(seasons, tmp_path):
    with pytest.raises(ConfigError, match="not for windows of --labels"):
        read(seasons, labels=str(tmp_path / "l.gpkg"))
    with pytest.raises(ConfigError, match=r"data\.time_series: not used by detection"):
        RemoteSensing().read(seasons, "detection", time_series=True)
