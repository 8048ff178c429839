"""Building an index of long videos, compared with decoding and encoding alone on the same threads; peak memory.

    python benchmarks/video_decoding.py draw hour.mp4 3600
    python benchmarks/video_index.py hour.mp4 [--threads N] [--backbone SPEC]

Decoding alone: the frames that are indexed, one per second, as the index decodes them. Encoding alone: as many frames
of the same size, preprocessed and run through the tower. Index: `vladapt index` from the start to the finished folder.
Wall-clock and CPU seconds; the latter are less disturbed by other work on the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.engine.index import index
from vladapt.core.features.extract import cores, encoder
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.video import Video
from vladapt.domains.video.long_videos import AT_ONCE, INSTANTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    domain, backbone = Video(), load_backbone(given.backbone, device="cpu")
    transform = domain.transforms(backbone, False, "classification")
    encode = encoder(backbone, "projected", None)
    stretches = domain.to_index(domain.read_images([given.video])).items
    load, frames = domain.read_images([given.video]).load, sum(item.decode[INSTANTS] for item in stretches)
    sample = load(stretches[0])
    encode(transform(sample[:8]))  # the model is built
    size, before = given.batch_size, peak()
    print(f"{given.video.name}: {frames} frames in stretches of {AT_ONCE}; {given.threads} threads")

    def decoding() -> None:
        with ThreadPoolExecutor(given.threads) as threads:
            for _ in threads.map(lambda item: len(load(item)), stretches):
                pass

    def encoding() -> None:
        with ThreadPoolExecutor(given.threads) as threads:
            waiting = deque()
            for start in range(0, frames, size):
                waiting.append(threads.submit(transform, sample[: min(size, frames - start)]))
                if len(waiting) > 2 * given.threads:
                    encode(waiting.popleft().result())
            for left in waiting:
                encode(left.result())

    def indexing() -> None:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["VLADAPT_CACHE"] = f"{folder}/cache"
            how = {"backbone": given.backbone, "device": "cpu", "workers": given.threads, "batch_size": size}
            index(resolve(flags={"domain": "video", **how}), f"{folder}/index", images=[given.video])

    apart = [measured("decoding alone", decoding), measured("encoding alone", encoding)]
    whole = measured("index", indexing)
    for name, at in (("wall-clock", 0), ("CPU", 1)):
        print(f"index / (decoding + encoding), {name}: {whole[at] / sum(each[at] for each in apart):.3f}")
    print(f"peak memory {peak():.0f} MB, {before:.0f} MB of it before")


def measured(name: str, work: Callable[[], None]) -> tuple[float, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    taken = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name}: {taken[0]:.1f} s, CPU {taken[1]:.1f} s", flush=True)
    return taken


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
