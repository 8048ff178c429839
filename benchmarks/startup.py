"""Processor seconds of commands whose work is small: what they import, a second fit, a prediction, an error.

    python benchmarks/startup.py

Everything runs with one thread, in processes of its own, from stored bytecode; each row is the least of some runs. The
second fit on the drawn sample finds all features stored.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from usage import print_help

REPEATS = 3
FIT = ("fit", "--domain", "medical", "--data", "sample", "--shots", "4")
VLADAPT = ("-m", "vladapt")


class Commands:
    """Commands of this Python in a folder of their own, with a cache of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        own = {
            "OMP_NUM_THREADS": "1",
            "VLADAPT_CACHE": str(folder / "cache"),
            "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
        }
        self.environment = {**os.environ, **own}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else each start would compile the whole package

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        how = {"capture_output": True, "text": True, "cwd": self.folder, "env": self.environment}
        return subprocess.run((sys.executable, *arguments), **how)

    def cpu_seconds(self, *arguments: str, code: int = 0) -> float:
        """The least of some runs, user and system together.

        Raises:
            RuntimeError: it does not end with `code`.
        """
        least = float("inf")
        for _ in range(REPEATS):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = self.run(*arguments)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode != code:
                raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
            least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return least


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        commands = Commands(Path(name))
        commands.run(*VLADAPT, *FIT, "--adapter", "zero-shot")  # encodes and stores
        torch = commands.cpu_seconds("-c", "import torch")

        def show(what: str, seconds: float) -> None:
            print(f"{what:<45} {seconds:6.2f} CPU s {seconds / torch:6.2f} x import torch", flush=True)

        show("import torch", torch)
        show("import vladapt", commands.cpu_seconds("-c", "import vladapt"))
        show("vladapt --help", commands.cpu_seconds(*VLADAPT, "--help"))
        show("vladapt fit --help", commands.cpu_seconds(*VLADAPT, "fit", "--help"))
        out = ("--out", "runs")
        show("second fit, tip-adapter", commands.cpu_seconds(*VLADAPT, *FIT, *out, "--adapter", "tip-adapter"))
        show("second fit, without --adapter", commands.cpu_seconds(*VLADAPT, *FIT, *out))
        run = sorted((commands.folder / "runs").glob("*tip-adapter*"))[-1]
        pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(commands.folder / "image.png")
        show("predict one image", commands.cpu_seconds(*VLADAPT, "predict", str(run), "image.png"))
        show("wrong folder", commands.cpu_seconds(*VLADAPT, "fit", "--data", "nowhere", code=1))
        show("wrong name", commands.cpu_seconds(*VLADAPT, "fit", "--adapter", "tip-adaptr", code=2))
        hidden = "import sys; sys.modules['open_clip'] = None; from vladapt.cli import main; main(sys.argv[1:])"
        extra = ("-c", hidden, "fit", "--backbone", "openai-vit-b-16")
        show("missing extra (open-clip)", commands.cpu_seconds(*extra, code=1))

        print("\nsecond fit, without --adapter: CPU s by part")
        parts = json.loads(commands.run(*VLADAPT, *FIT, "--timing", "--json").stdout)["timing"]
        for part, (seconds, _) in parts.items():
            print(f"{part:<45} {seconds:6.2f}")


if __name__ == "__main__":
    print_help(__doc__)
    main()
