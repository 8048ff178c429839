"""What mapping a large raster costs, how accurate the map is, and the same by terratorch's `tiled_inference`.

Fields of 2,500 pixels are drawn as in `raster_windows.py`; a run is fitted on another such raster. `map` is the whole
command: "mapping" reads and scores the windows, "writing" blends them into two cloud-optimised GeoTIFFs, and the rest
of the total time makes the regions and compares the map with the fields. `terratorch` reads the raster into memory, as
`tiled_inference` expects by default, and passes chips of the same size and stride through the same tower and
classifier, in batches of the same size.

    python benchmarks/raster_maps.py fit                     learn.tif, learn.gpkg and the folder runs
    python benchmarks/raster_maps.py draw f5000 5000
    python benchmarks/raster_maps.py map f5000               seconds, pixels per second, peak memory, accuracy
    python benchmarks/raster_maps.py terratorch f5000        needs: pip install terratorch
"""

import json
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
import torch
from raster_windows import draw
from usage import print_help

from vladapt.core.runtime.progress import Reporter

FIELD, CONTRAST, WINDOW, OVERLAP, BATCH, SIDE = 2_500, 60.0, 150, 0.25, 32, 96
BANDS = "false-color"


def fit() -> None:
    """A linear probe on windows of another raster."""
    import vladapt

    draw("learn", 4_000, seed=1, field=2 * WINDOW, contrast=CONTRAST)
    data = {"path": "learn.tif", "labels": "learn.gpkg", "bands": BANDS, "window_size": WINDOW, "overlap": 0.0}
    data["block_size"] = 0.0
    made = vladapt.fit(
        domain="remote-sensing", data=data, adapter="linear-probe", shots=100, image_size=SIDE, out="runs", seed=1
    )
    print(made.run, made.metrics["adapted"]["accuracy"])


def map_(name: str) -> None:
    """The command `vladapt predict RUN NAME.tif --out NAME_map.tif --labels NAME.gpkg`."""
    import vladapt

    vladapt.load_run(newest_run())  # imports, and what torch does at first
    pixels, started, used = size_of(name), time.perf_counter(), time.process_time()
    made = vladapt.predict(
        newest_run(),
        [f"{name}.tif"],
        out=f"{name}_map.tif",
        batch_size=BATCH,
        reading={"labels": f"{name}.gpkg", "overlap": OVERLAP},
        reporter=(clock := Clock()),
    )
    for title, (since, of_cpu, until, cpu) in clock.parts.items():
        print(f"{title.split()[0].lower()}: {until - since:.0f} s, of the CPU {cpu - of_cpu:.0f} s", end="; ")
    tell(pixels, started, used)
    print(*made.notes, sep="\n")
    with rasterio.open(f"{name}_map.tif") as of_class:
        names = json.loads(of_class.tags()["CLASSES"])
        print(f"agrees with the fields in {agreement(of_class, name, names):.4f} of all pixels")


def terratorch(name: str) -> None:
    """Chips of the same size and stride through the same tower."""
    from terratorch.tasks.tiled_inference import tiled_inference

    import vladapt

    predictor = vladapt.load_run(newest_run())
    low, high = np.array(predictor.recipe.reading["stretch"], np.float32).reshape(-1, 2).T
    backbone, adapter = predictor.backbone, predictor.adapter
    mean, std = (torch.tensor(each)[:, None, None] for each in (backbone.image_mean, backbone.image_std))

    @torch.inference_mode()
    def forward(chips: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.interpolate(chips, (SIDE, SIDE), mode="bicubic", antialias=True)
        logits = adapter.logits(backbone.encode_image((small - mean) / std, normalize=False))
        return logits.softmax(dim=1)[:, :, None, None].expand(-1, -1, WINDOW, WINDOW)

    pixels, started, used = size_of(name), time.perf_counter(), time.process_time()
    with rasterio.open(f"{name}.tif") as raster:
        values = raster.read([4, 3, 2]).astype(np.float32)
    image = torch.from_numpy(values.__isub__(low[:, None, None]).__itruediv__((high - low)[:, None, None]).clip(0, 1))
    stride = round(WINDOW * (1 - OVERLAP))
    scores = tiled_inference(forward, image[None], crop=WINDOW, stride=stride, delta=0, padding=False, batch_size=BATCH)
    classes = scores[0].argmax(dim=0).numpy().astype(np.uint8) + 1
    tell(pixels, started, used)
    print(f"classes: {np.bincount(classes.ravel()).tolist()}")


class Clock(Reporter):
    """When each part of the work began and ended, by the wall and by the CPU."""

    def __init__(self):
        super().__init__(quiet=True)
        self.parts: dict[str, tuple[float, ...]] = {}

    @contextmanager
    def task(self, title: str, unit: str = "images"):
        begun = time.perf_counter(), time.process_time()
        yield lambda done, total: None
        self.parts[title] = (*begun, time.perf_counter(), time.process_time())


def agreement(of_class, name: str, names: list[str]) -> float:
    """Share of pixels whose class is that of their field."""
    import pyogrio
    import shapely

    _, _, shapes, (labels,) = pyogrio.raw.read(f"{name}.gpkg")
    right = 0
    for box, label in zip(shapely.bounds(shapely.from_wkb(shapes)), labels):
        window = rasterio.windows.from_bounds(*box, transform=of_class.transform)
        right += int((of_class.read(1, window=window) == names.index(label) + 1).sum())
    return right / (of_class.width * of_class.height)


def newest_run() -> Path:
    return max(Path("runs").iterdir())


def size_of(name: str) -> int:
    with rasterio.open(f"{name}.tif") as raster:
        return raster.width * raster.height


def tell(pixels: int, started: float, used: float) -> None:
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{seconds:.0f} s, {pixels / seconds:,.0f} pixels per second; of the CPU {cpu:.0f} s, {pixels / cpu:,.0f}")
    print(f"peak memory {peak:.0f} MB")


if __name__ == "__main__":
    print_help(__doc__, words=1)
    command, *rest = sys.argv[1:]
    torch.set_num_threads(1)
    if command == "fit":
        fit()
    elif command == "draw":
        draw(rest[0], int(rest[1]), field=FIELD, contrast=CONTRAST)
    else:
        {"map": map_, "terratorch": terratorch}[command](rest[0])
