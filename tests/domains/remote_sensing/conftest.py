"""Small rasters made on the spot, and the values that are read of them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest


def numbers(*shape, kind=np.uint16, high=4000, seed=0):
    return np.random.default_rng(seed).integers(1, high, shape).astype(kind)


def values(file, **decode):
    from vladapt.domains.remote_sensing.pictures import channel_values

    return channel_values(file, decode)[0]


@pytest.fixture
def write_raster(tmp_path):
    """write_raster("a.tif", values (B, H, W), crs="EPSG:32633", metres=10, left=500000, top=5000000, **profile): a
    GeoTIFF below the test's folder; `names`, `scales`, `offsets`, `tags` and `palette` of its bands too."""
    rasterio = pytest.importorskip("rasterio", reason="extra remote-sensing is not installed")
    from rasterio.transform import from_origin

    def write(name, values, crs="EPSG:32633", metres=10.0, left=500_000.0, top=5_000_000.0, **profile):
        values = np.asarray(values)
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        names, tags = profile.pop("names", ()), profile.pop("tags", {})
        scales, offsets, palette = (profile.pop(key, None) for key in ("scales", "offsets", "palette"))
        shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
        place = {} if crs is None else {"crs": crs, "transform": from_origin(left, top, metres, metres)}
        profile.setdefault("driver", "GTiff")
        with rasterio.open(file, "w", **shape, **place, **profile) as raster:
            raster.write(values)
            for i, called in enumerate(names, start=1):
                raster.set_band_description(i, called)
            if scales is not None:
                raster.scales = scales
            if offsets is not None:
                raster.offsets = offsets
            raster.update_tags(**tags)
            if palette is not None:
                raster.write_colormap(1, palette)
        return file

    return write


@pytest.fixture
def killed_while_moving(monkeypatch, tmp_path):
    """killed_while_moving(make, folder): run `make` and leave the folder of its files as a process leaves it that is
    killed between two of them; returns those that were moved."""
    from vladapt.domains.remote_sensing.maps import work

    def kill(make, folder):
        move, moved = work._move, []

        def stop(made, place):
            if moved:
                shutil.copytree(folder, tmp_path / "killed")
                raise KeyboardInterrupt
            moved.append(place)
            move(made, place)

        monkeypatch.setattr(work, "_move", stop)
        with pytest.raises(KeyboardInterrupt):
            make()
        monkeypatch.setattr(work, "_move", move)
        shutil.rmtree(folder)
        (tmp_path / "killed").rename(folder)
        return moved

    return kill
