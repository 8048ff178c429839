"""Map rasters by the model beside this file: python predict.py FILE ... --out FOLDER, or of two dates BEFORE AFTER.

Needs onnxruntime, numpy, pillow and rasterio. Windows are slid over a raster and blended as `vladapt predict` does, in
memory of the whole map. Prints a JSON object per map, and faults on stderr.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

HERE = Path(__file__).resolve().parent
try:
    from ....core.export import pictures
except ImportError:  # a script, whose folder `python -I` leaves out
    sys.path.insert(0, str(HERE))
    import pictures  # type: ignore[no-redef]

LEAST_WEIGHT = 1e-6
NO_VALUE = 255


def bands_of(dataset, facts):
    """Numbers of the bands that the model takes, by what the file calls them."""
    if dataset.colorinterp[0].name == "palette":
        raise ValueError("has a palette; bring it to bands (rio convert, gdal_translate -expand rgb)")
    names = [(name or "").strip().lower() for name in dataset.descriptions]
    made = []
    for band in facts["bands"]:
        place = int(band) if band.isdigit() else names.index(band) + 1 if band in names else 0
        if not 0 < place <= dataset.count:
            raise ValueError(f"has no band '{band}', only {', '.join(filter(None, names)) or dataset.count}")
        made.append(place)
    return made


def window_of(dataset, bands, box, facts):
    """(C, h, w) float32 in 0..1, 0 where there is no value; (h, w) bool, where there is one."""
    area = Window(*box)
    raw = dataset.read(bands, window=area)
    valid = (dataset.read_masks(bands, window=area) > 0).all(axis=0)
    if raw.dtype.kind == "f":
        valid &= np.isfinite(raw).all(axis=0)
    if facts["stretch"] is None:
        unit = raw.astype(np.float32) / np.float32(255)
    else:
        scale, offset = (np.array(each)[[band - 1 for band in bands], None, None] for each in scaling(dataset))
        low, high = (np.array(side, np.float32)[:, None, None] for side in zip(*facts["stretch"]))
        values = (raw.astype(np.float64) * scale + offset).astype(np.float32)
        unit = np.clip((values - low) / np.maximum(high - low, np.float32(1e-12)), 0, 1)
    return np.where(valid, unit, 0).astype(np.float32), valid


def scaling(dataset):
    return dataset.scales, dataset.offsets


def starts(length, size, stride):
    """Where windows begin; the last one ends where the length ends."""
    return [*range(0, length - size, stride), length - size]


def weights_of(size, stride):
    """(size, size) of a window: half a cosine down to its ends over what the next window covers too."""
    ramp, weights = min(size // 2, size - stride), np.ones(size, np.float32)
    if ramp > 0:
        fall = 0.5 + 0.5 * np.cos(np.pi * np.arange(1, ramp + 1) / (ramp + 1))
        weights[:ramp], weights[-ramp:] = fall[::-1], fall
    return np.outer(weights, weights) + np.float32(LEAST_WEIGHT)


def mapped(datasets, ask, facts):
    """(Q, H, W) blended outputs of a raster, or of two dates of one; (H, W) bool, where there is a value."""
    height, width, size, stride = datasets[0].height, datasets[0].width, facts["window"], facts["stride"]
    if min(height, width) < size:
        raise ValueError(f"is smaller than a window of {size} pixels; map it by vladapt predict")
    bands, weights = [bands_of(each, facts) for each in datasets], weights_of(size, stride)
    sums, total, seen = None, np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    for top in starts(height, size, stride):
        for left in starts(width, size, stride):
            read = [window_of(*each, (left, top, size, size), facts) for each in zip(datasets, bands)]
            valid = np.logical_and.reduce([there for _, there in read])
            if not valid.any():
                continue
            pixels = np.stack([values for values, _ in read])  # (dates, C, size, size)
            values = values_of(ask({"pixels": pixels if len(read) == 1 else pixels[None]}))
            place, shares = np.s_[top : top + size, left : left + size], weights * valid if facts["masked"] else weights
            sums = np.zeros((len(values), height, width), np.float32) if sums is None else sums
            sums[:, place[0], place[1]] += values * shares
            total[place] += shares
            seen[place] |= valid
    if sums is None:
        raise ValueError("nothing to map, no pixel of it has a value")
    return sums / np.maximum(total, np.float32(1e-30)), seen


def values_of(outputs):
    """(Q, h, w) that are blended: numbers and scales of their error, or the probability of change."""
    if "number" in outputs:
        return np.concatenate([outputs["number"], outputs["scale"]])
    unchanged, changed = outputs["scores"][0].astype(np.float32)
    return 1 / (1 + np.exp(unchanged - changed))[None]


def written(path, dataset, layers, names, nodata):
    profile = {"driver": "GTiff", "height": dataset.height, "width": dataset.width, "count": len(layers)}
    profile |= {"crs": dataset.crs, "transform": dataset.transform, "nodata": nodata, "compress": "deflate"}
    with rasterio.open(path, "w", dtype=layers.dtype, **profile) as file:
        file.write(layers)
        file.descriptions = tuple(names)


def numbers_map(name, values, seen, facts):
    """The layers of a map of numbers and its row."""
    numbers, reach = values[0], facts["reach"]
    layers = [numbers] if reach is None else [numbers, numbers - reach * values[1], numbers + reach * values[1]]
    layers = np.where(seen, np.stack(layers), np.float32(np.nan)).astype(np.float32)
    there = numbers[seen]
    row = {"id": name, "mean": float(there.mean(dtype=np.float64)), "lowest": float(there.min())}
    row |= {"highest": float(there.max()), "unit": facts["unit"], "pixels": int(seen.sum())}
    return layers, [facts["target"], "lower end", "upper end"][: len(layers)], np.nan, row


def change_map(name, values, seen, facts):
    """Those of a map of change: 0, 1, and 255 where a date has no value; and the probability in per cent."""
    changed = values[0] >= np.float32(facts["threshold"])
    layers = np.stack([changed, np.rint(100 * values[0])])
    layers = np.where(seen, layers, NO_VALUE).astype(np.uint8)
    row = {"id": name, "changed": round(float(changed[seen].mean()), 6), "pixels": int(changed[seen].sum())}
    return layers, ["change", "probability"], NO_VALUE, row


if __name__ == "__main__":
    facts = pictures.facts_of(HERE)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for maps; none replaces a file")
    given, ask, failed = parser.parse_args(), pictures.asked(HERE, facts), False
    if len(given.files) % facts["dates"]:
        parser.error("give two files per place: BEFORE AFTER")
    given.out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(given.files), facts["dates"]):
        paths = given.files[start : start + facts["dates"]]
        file = given.out / f"{paths[0].stem}.tif"
        datasets = []
        try:
            if file.exists():
                raise ValueError(f"{file} exists; give another --out")
            datasets += [rasterio.open(path) for path in paths]
            if len({(each.shape, each.crs, each.transform) for each in datasets}) > 1:
                raise ValueError("the dates lie on different grids; bring them to one")
            values, seen = mapped(datasets, ask, facts)
            kind = numbers_map if "target" in facts else change_map
            layers, names, nodata, row = kind(" ".join(map(str, paths)), values, seen, facts)
            written(file, datasets[0], layers, names, nodata)
            print(json.dumps({**row, "map": str(file)}))
        except (OSError, ValueError) as error:  # rasterio's are both
            print(f"{' '.join(map(str, paths))}: {' '.join(str(error).split())}", file=sys.stderr)
            failed = True
        finally:
            for each in datasets:
                each.close()
    sys.exit(int(failed))
