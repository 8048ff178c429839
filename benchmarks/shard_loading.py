"""The loader of shards read in sequence compared with webdataset alone: its speed, and the start of a large set.

    python benchmarks/shard_loading.py speed        (JPEG of 640 x 480 pixels in tars, two workers each, in turn)
    python benchmarks/shard_loading.py start        (ten million samples: seconds to the first batch, memory)

"webdataset alone" is its pipeline as in its manual: shards and samples shuffled, images decoded by Pillow, cropped,
flipped and normalised by torchvision, texts tokenised, batches made by its workers. Ours does the same work in an order
that can be resumed. Seconds are medians over alternating runs; memory is that of the process and its workers together,
with shared pages counted once.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import os
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.shard_set import HeldOut, read_shard_set
from vladapt.core.training.batches import StreamBatches, streams_for
from vladapt.core.training.loading import BatchLoader
from vladapt.core.training.samples import Samples
from vladapt.core.training.sources import StreamedSource
from vladapt.core.training.views import Views

WORKERS, BATCH = 2, 64
SMALL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def drawn_jpeg(seed: int, size: tuple[int, int]) -> bytes:
    """A drawn photograph: smooth colours with some noise, about as many bytes as those of COCO at 640 x 480."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    pixels = np.clip(smooth + rng.integers(-14, 14, smooth.shape), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def write_shards(folder: Path, shards: int, each: int, size: tuple[int, int]) -> list[str]:
    """Tars of drawn photographs and captions."""
    paths = []
    for shard in range(shards):
        paths.append(str(folder / f"{shard:05d}.tar"))
        with tarfile.open(paths[-1], "w") as archive:
            for i in range(each):
                encoded = drawn_jpeg(shard * each + i, size)
                text = f"a photo of thing number {i} of shard {shard} among others".encode()
                for extension, content in (("jpg", encoded), ("txt", text)):
                    info = tarfile.TarInfo(f"{shard:05d}{i:05d}.{extension}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return paths


def ours(backbone, folder: Path, cache: Path) -> Callable[[], Iterator]:
    """A call that starts an epoch of ours, the reading of the list of shards included."""

    def start() -> Iterator:
        pairs, _, _ = read_shard_set(str(folder), HeldOut(0, 0), seed=0, cache=cache, max_pixels=10**7)
        source = StreamedSource(pairs, CaptionSampler("first"))
        view = Views(backbone).light((0.5, 1.0))
        fields = frozenset({"pixels", "tokens"})
        samples = Samples(source, fields, {"light": view}, backbone.tokenize, 0, backbone.token_mask)
        batches = StreamBatches(len(source), BATCH, streams_for(BATCH, WORKERS, len(source)))
        return iter(BatchLoader(samples, batches, WORKERS, pin=False, sample_bytes=12 * backbone.image_size**2))

    return start


def theirs(backbone, folder: Path) -> Callable[[], Iterator]:
    """A call that starts an epoch of webdataset's own loader."""
    import webdataset
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(backbone.image_mean, backbone.image_std),
        ]
    )

    def start() -> Iterator:
        shards = sorted(map(str, folder.glob("*.tar")))
        data = webdataset.WebDataset(shards, shardshuffle=len(shards), empty_check=False).shuffle(1000)
        data = data.decode("pilrgb").to_tuple("jpg", "txt")
        data = data.map_tuple(transform, lambda text: backbone.tokenize([text])[0]).batched(BATCH)
        return iter(webdataset.WebLoader(data, batch_size=None, num_workers=WORKERS))

    return start


def measured(start: Callable[[], Iterator], batches: int) -> tuple[float, float]:
    """(samples per second, CPU milliseconds per sample) of an epoch, its start included."""
    cpu, began = _cpu_seconds(), time.perf_counter()
    iterator = start()
    done = sum(1 for _ in islice(iterator, batches)) * BATCH
    seconds = time.perf_counter() - began
    del iterator
    gc.collect()  # the workers of this epoch end before the next one begins, and are counted
    return done / seconds, 1000 * (_cpu_seconds() - cpu) / done


def _cpu_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def speed(backbone, folder: Path, runs: int, each: int) -> None:
    write_shards(folder, 4, each, (640, 480))
    size = sum(path.stat().st_size for path in folder.glob("*.tar")) / (4 * each)
    loaders = {"webdataset": theirs(backbone, folder), "vladapt": ours(backbone, folder, folder / "cache")}
    batches = 4 * each // BATCH - WORKERS  # what a worker of webdataset cannot fill is a smaller batch
    measured(loaders["vladapt"], 1)  # counts the shards
    runs_of = {name: [] for name in loaders}
    for run in range(runs):
        for name in list(loaders)[:: 1 if run % 2 else -1]:
            runs_of[name].append(measured(loaders[name], batches))
    print(f"{4 * each:,} JPEG of 640 x 480 pixels, {size / 1024:.0f} KB each, 4 tars, {WORKERS} workers, batch {BATCH}")
    middle = {name: [median(values) for values in zip(*rows)] for name, rows in runs_of.items()}
    for name, (rate, cpu) in middle.items():
        rates = ", ".join(f"{row[0]:.0f}" for row in runs_of[name])
        print(f"{name:10s} {rate:7.1f} samples/s ({rates}), {cpu:.2f} ms of CPU per sample")
    rate, cpu = (middle["vladapt"][i] / middle["webdataset"][i] for i in range(2))
    print(f"ratio      {rate:7.2f} of the rate, {cpu:.2f} of the CPU time")


def start(backbone, folder: Path, runs: int, shards: int) -> None:
    """Shards of 10,000 samples, all but the first of them links to it."""
    (first,) = write_shards(folder, 1, 10_000, (32, 24))
    for number in range(1, shards):
        os.link(first, folder / f"{number:05d}.tar")
    (folder / "sizes.json").write_text(json.dumps({f"{number:05d}.tar": 10_000 for number in range(shards)}))
    loaders = {"webdataset": theirs(backbone, folder), "vladapt": ours(backbone, folder, folder / "cache")}
    before = _mebibytes()
    seconds, memory = {name: [] for name in loaders}, {name: [] for name in loaders}
    for run in range(runs):
        for name in list(loaders)[:: 1 if run % 2 else -1]:
            began = time.perf_counter()
            batches = loaders[name]()
            next(batches)
            seconds[name].append(time.perf_counter() - began)
            memory[name].append(_mebibytes())
            del batches
            gc.collect()
    print(f"{shards * 10_000:,} samples in {shards:,} shards, {WORKERS} workers; {before:.0f} MiB without data")
    for name in loaders:
        more = max(memory[name]) - before
        print(f"{name:10s} first batch after {median(seconds[name]):5.2f} s, {more:5.0f} MiB more")
    print(f"ratio      {median(seconds['vladapt']) / median(seconds['webdataset']):5.2f}")


def _mebibytes() -> float:
    """Of this process and those it started, by their proportional shares of each page."""
    processes = [os.getpid(), *map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())]
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "start"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=320, help="images per shard, for speed")
    parser.add_argument("--shards", type=int, default=1000, help="shards of 10,000 samples, for start")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "small.json").write_text(json.dumps(SMALL))
        backbone = load_backbone(f"open_clip:{place}/small.json@random", device="cpu")
        folder = Path(place) / "shards"
        folder.mkdir()
        if options.what == "speed":
            speed(backbone, folder, options.runs, options.images)
        else:
            start(backbone, folder, options.runs, options.shards)


if __name__ == "__main__":
    main()
