"""Embeddings of as many class names as LVIS has (1,203): time and memory, the first time and the second.

    python benchmarks/text_vocabulary.py

"first" is `embed_queries` with nothing stored, "stored" the same in a later process. "one by one" encodes each text
with a separate call (200 texts, scaled up), "all at once" with one call for all. Memory is what each adds to the
process at its peak (Linux), with the tower already loaded. One thread; every measurement has its own process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

from usage import print_help

CLASSES, SOME = 1203, 200
TOWERS = {"open_clip:ViT-B-32@random:0": "photo", "embedded": "imagenet-7"}
WAYS = ("first", "stored", "one by one", "all at once")
COLOURS = ("red", "black", "white", "green")
MATTERS = ("wooden", "tin", "steel", "paper", "plastic", "woollen", "glass", "rubber", "small", "old", "wet", "round")
THINGS = ("apple", "basket", "bench", "bottle", "bowl", "box", "bucket", "cap", "chair", "clock", "coat", "cup", "door")
THINGS += ("drum", "fan", "flag", "hammer", "hat", "jar", "kettle", "kite", "ladder", "lamp", "mask", "piano", "shoe")


def names() -> list[str]:
    """1,203 names, no two alike."""
    return [" ".join(words) for words in islice(product(COLOURS, MATTERS, THINGS), CLASSES)]


def measure(spec: str, templates: str, way: str) -> dict[str, float]:
    """Seconds of the clock and of the CPU, and MiB that the peak adds."""
    import torch

    from adapters import forget_peak, peak_resident, resident
    from vladapt.domains.open_vocab.vocabulary import Vocabulary, embed_queries, text_backbone

    torch.set_num_threads(1)
    vocabulary, backbone = Vocabulary.of(names(), templates), text_backbone(spec)
    if way != "stored":  # which builds no tower
        backbone.encode_text(["a word"])
    texts = [text for query in vocabulary.queries for text in query]
    ways = {
        "first": lambda: embed_queries(vocabulary, backbone),
        "stored": lambda: embed_queries(vocabulary, backbone),
        "one by one": lambda: [backbone.encode_text([text]) for text in texts[:SOME]],
        "all at once": lambda: backbone.encode_text(texts),
    }
    forget_peak()
    before, clock, cpu = resident(), time.perf_counter(), time.process_time()
    with torch.no_grad():
        ways[way]()
    factor = len(texts) / SOME if way == "one by one" else 1
    return {
        "texts": len(texts),
        "clock": factor * (time.perf_counter() - clock),
        "cpu": factor * (time.process_time() - cpu),
        "mib": (peak_resident() - before) / 2**20,
    }


def main() -> None:
    print("texts      way              clock        CPU   memory added")
    for spec, templates in TOWERS.items():
        with tempfile.TemporaryDirectory() as cache:
            for way in WAYS:
                found = in_a_process(spec, templates, way, cache)
                print(
                    f"{found['texts']:<10,} {way:12} {found['clock']:7.1f} s  {found['cpu']:7.1f} s  "
                    f"{found['mib']:6,.0f} MiB  {spec}, '{templates}'",
                    flush=True,
                )


def in_a_process(spec: str, templates: str, way: str, cache: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), spec, templates, way]
    environment = {**os.environ, "VLADAPT_CACHE": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print_help(__doc__)
    if len(sys.argv) > 1:
        print(json.dumps(measure(*sys.argv[1:])))
    else:
        main()
