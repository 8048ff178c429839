"""How fast an exported run predicts on the CPU, compared with the run itself in torch and, if installed, with OpenVINO.

    python benchmarks/export_speed.py RUN IMAGE [--threads 2] [--environment FOLDER]

Decoding is not measured: the same pixels go through each, one image at a time (30 times) and 32 at once (5 times). Then
come the time from the start of `predict.py IMAGE` to its answer (5 processes), and with `--environment` the size of a
new virtual environment with what the script needs. The minimum counts, of wall-clock time and of CPU time, which other
work on the machine disturbs less. Prints the tables of docs/measurements/export.md.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

import vladapt
from vladapt.core.contracts.images import height_and_width
from vladapt.core.export.folder import PIXELS, Session
from vladapt.core.tasks.classification.exporting import FILES, INT8, ClassifierGraph, Head

ALONE, TOGETHER, PROCESSES, AT_ONCE = 30, 5, 5, 32
NEEDED = ("onnxruntime", "numpy", "pillow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environment", type=Path, help="a new folder; packages are installed from the index")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = vladapt.export(given.run, Path(folder) / "model", int8=True, device="cpu")
        print(f"{given.threads} threads; the machine's load was {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        print("| engine | one image, ms | CPU ms | images/s, 32 at once | images per CPU second |")
        print("| --- | ---: | ---: | ---: | ---: |")
        for name, ask in engines(given.run, made.folder, given.threads).items():
            one, many = (noise(made.facts, batch) for batch in (1, AT_ONCE))
            alone, of_one = least_seconds(partial(ask, one), ALONE)
            together, of_many = least_seconds(partial(ask, many), TOGETHER)
            rates = f"{AT_ONCE / together:.0f} | {AT_ONCE / of_many:.0f}"
            print(f"| {name} | {1000 * alone:.1f} | {1000 * of_one:.1f} | {rates} |", flush=True)
        python = Path(sys.executable)
        if given.environment is not None:
            venv.create(given.environment, with_pip=True)
            python = given.environment / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", "-q", *NEEDED], check=True)
        first, of_first = answer_time(python, made.folder, given.image)
        print(f"\nFirst answer of predict.py: {first:.2f} s ({of_first:.2f} s of CPU)")
        if given.environment is not None:
            size = sum(file.stat().st_size for file in given.environment.rglob("*") if not file.is_symlink())
            print(f"Its environment: {size / 1e6:.0f} MB")


def least_seconds(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Wall and CPU seconds of `run()`, the least of several calls each: other work on the machine only adds to them."""
    run()
    spent = []
    for _ in range(repeats):
        started = time.perf_counter(), _cpu_seconds()
        run()
        spent.append((time.perf_counter() - started[0], _cpu_seconds() - started[1]))
    return min(wall for wall, _ in spent), min(cpu for _, cpu in spent)


def _cpu_seconds() -> float:
    """Of all threads of this process, and of processes that it started and that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def engines(run: Path, folder: Path, threads: int) -> dict[str, Callable[[np.ndarray], object]]:
    """Name -> what answers pixels (B, 3, H, W)."""
    predictor = vladapt.load_run(run, device="cpu")
    whole = ClassifierGraph(
        predictor.adapter.adapted(predictor.backbone), Head(predictor.adapter, predictor.calibration)
    ).eval()

    def by_torch(pixels: np.ndarray):
        with torch.inference_mode():
            return whole(torch.from_numpy(pixels))

    def by_onnx(name: str) -> Callable[[np.ndarray], object]:
        session = Session(folder / name, threads)
        return lambda pixels: session(pixels=pixels)

    found = {"torch, the run itself": by_torch, "onnxruntime": by_onnx(FILES[PIXELS])}
    found["onnxruntime, --int8"] = by_onnx(INT8)
    try:
        import openvino
    except ImportError:
        return found
    compiled = openvino.Core().compile_model(
        openvino.convert_model(folder / FILES[PIXELS]), "CPU", {"INFERENCE_NUM_THREADS": threads}
    )
    return {**found, "OpenVINO": lambda pixels: compiled({"pixels": pixels})}


def noise(facts: dict, batch: int) -> np.ndarray:
    """(B, 3, H, W) pixels of the size that the graph takes."""
    size = height_and_width(facts["preprocessing"]["image_size"])
    return np.random.default_rng(0).random((batch, 3, *size), dtype=np.float32)


def answer_time(python: Path, folder: Path, image: Path) -> tuple[float, float]:
    """Wall and CPU seconds from the start of predict.py to its end."""
    command = [python, folder / "predict.py", image.resolve()]
    return least_seconds(lambda: subprocess.run(command, check=True, capture_output=True), PROCESSES)


if __name__ == "__main__":
    main()
