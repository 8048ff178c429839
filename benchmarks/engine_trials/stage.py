"""The stage that all engines run: 30 shards of 8 images, 25 ms an image, one part file per shard.

What every engine is given: a task is idempotent, and its part appears whole or not at all. An image may be poisoned: it
kills the process that reads it, as a broken decoder does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

SHARDS, SIZE, SECONDS = 30, 8, 0.025
WORKERS, POISON, ASIDE = "_workers", "_poison", "_aside"


class Stage:
    """What a worker holds; that it was started is written down, so that a trial can kill it."""

    def __init__(self, out: str):
        self.out = Path(out)
        (self.out / WORKERS).mkdir(parents=True, exist_ok=True)
        (self.out / WORKERS / str(os.getpid())).touch()

    def write(self, shard: int) -> int:
        """Write the part of a shard without the images set aside; one that is there already is not written again."""
        part = self.out / f"part-{shard:05d}.jsonl"
        if not part.exists():
            aside = {int(path.name) for path in self.out.glob(f"{ASIDE}/*")}
            images = [image for image in range(shard * SIZE, (shard + 1) * SIZE) if image not in aside]
            partial = part.with_name(f".{part.name}.{os.getpid()}")
            partial.write_text("".join(json.dumps({"id": image}) + "\n" for image in self.read(images)))
            os.replace(partial, part)
        return shard

    def read(self, images: list[int]) -> list[int]:
        for image in images:
            time.sleep(SECONDS)
            if (self.out / POISON / str(image)).exists():
                os.kill(os.getpid(), signal.SIGKILL)
        return images


def set_aside(out: str, image: int) -> None:
    (Path(out) / ASIDE).mkdir(exist_ok=True)
    (Path(out) / ASIDE / str(image)).touch()


def missing(out: str) -> list[int]:
    """Shards without a part."""
    return [shard for shard in range(SHARDS) if not (Path(out) / f"part-{shard:05d}.jsonl").exists()]


def arguments() -> tuple[str, str]:
    """(folder, address of the cluster), from the command line of a prototype."""
    return sys.argv[1], sys.argv[2]
