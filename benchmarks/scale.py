"""Work on shards beside a plain loop, on one core and on two, and its memory: the tables of docs/measurements/scale.md.

    python benchmarks/scale.py embed --images 10000
    python benchmarks/scale.py actors --images 2000
    python benchmarks/scale.py rows --rows 10000000
    python benchmarks/scale.py embed actors rows --results scale.json   # goes on where it was stopped

`embed` writes the features of JPEG files as shards in one process, and by a plain loop of decoding, tower and Parquet,
64 images at a time and four at a time; in turn, after each has encoded some images, the median of `--rounds`. CPU
seconds.

`actors` makes the same shards serially on one core, serially on two, and by two Ray actors of one core each. Starts are
apart: counted is what comes after the first shard of each worker. CPU ms per image are of the process that works, so
that they mean something on a machine with other work to do; walls are of this machine as busy as it is. Ray is told of
two GPUs that are not there, so that each actor holds half of one.

`rows` plans, and runs some shards of, a list of a million and of `--rows` images that are never opened: memory of the
process that is driver and worker.

What index and search cost is measured by index_scale.py, and what engines survive by engines.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"side": 256, "quality": 90, "shard_size": 50}
BATCH = 64
SMALL, SPREAD_SHARDS = 1_000_000, 5


def jpegs(folder: Path, count: int) -> None:
    """Photographs that are none: smooth colours with noise, of about 20 kB each."""
    from PIL import Image

    folder.mkdir()
    for number in range(count):
        draw = np.random.default_rng(number)
        coarse = Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).resize((SIZES["side"],) * 2, 3)
        noisy = np.asarray(coarse, np.int16) + draw.normal(0, 8, (SIZES["side"], SIZES["side"], 3)).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:06d}.jpg", quality=SIZES["quality"]
        )


def recipe_of(given: argparse.Namespace) -> Any:
    from vladapt.core.recipes.resolve import resolve

    return resolve(flags={"backbone": given.backbone, "device": "cpu"})


def by_shards(given: argparse.Namespace, images: Path, out: Path) -> None:
    from vladapt.core.engine.embed import embed

    embed(recipe_of(given), out, images=[images], as_="parquet", shard_size=SIZES["shard_size"])


def by_loop(given: argparse.Namespace, images: Path, out: Path, batch: int = BATCH) -> None:
    """What anyone would write."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from PIL import Image

    from vladapt import load_backbone

    backbone = load_backbone(given.backbone, "cpu")
    transform = backbone.preprocess(False)
    out.mkdir()
    files = sorted(images.iterdir())
    size = SIZES["shard_size"]
    for start in range(0, len(files), size):
        some, rows = files[start : start + size], []
        for first in range(0, len(some), batch):
            pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in some[first : first + batch]])
            with torch.inference_mode():
                rows.append(backbone.encode_image(pixels, normalize=False).numpy().astype(np.float16))
        features = pa.array(list(np.concatenate(rows)), pa.list_(pa.float16()))
        table = pa.table({"id": [str(file) for file in some], "image_features": features})
        pq.write_table(table, out / f"{start}.parquet", compression="zstd", use_dictionary=["id"])


WAYS = {"shards": by_shards, "loop": by_loop, "loop by fours": partial(by_loop, batch=4)}


def embed_step(given: argparse.Namespace) -> list[dict[str, float]]:
    """CPU seconds of each way, of each round."""
    place, rounds = Path(given.folder), []
    for number in range(given.rounds + 1):
        rounds.append({})
        for way, work in WAYS.items():
            started = time.process_time()
            work(given, place / ("images" if number else "few"), place / f"{way} {number}")
            rounds[-1][way] = time.process_time() - started
    return rounds[1:]


def embed(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        jpegs(Path(place) / "images", given.images)
        jpegs(Path(place) / "few", 8)
        rounds = step(given, "embed", place)
    took = {way: statistics.median(each[way] for each in rounds) for way in WAYS}
    return {
        "images": given.images,
        "backbone": given.backbone,
        **took,
        "ratio": took["shards"] / min(took["loop"], took["loop by fours"]),
    }


def actors_step(given: argparse.Namespace) -> dict[str, Any]:
    """Shards by one kind of worker: CPU ms and wall ms per image after the first shards."""
    from vladapt.core.engine.embed_shards import embed_shards
    from vladapt.core.engine.options import EmbedOptions
    from vladapt.core.runtime.progress import Reporter

    ray, workers = given.way == "ray", 2 if given.way == "ray" else 1
    if not ray:
        cores = sorted(os.sched_getaffinity(0))[: {"one": 1, "both": 2}[given.way]]
        os.sched_setaffinity(0, cores)
    os.environ["RAY_OVERRIDE_RESOURCES"] = json.dumps({"GPU": 2})
    how = {"engine": "ray", "processes": 2, "worker_cpus": 1, "worker_gpus": 0.5} if ray else {}
    marks: list[tuple[int, float, float]] = []  # shards, CPU s, wall s

    class Watched(Reporter):
        def task(self, *words: Any, **further: Any) -> Any:
            from contextlib import nullcontext

            return nullcontext(lambda done, total: marks.append((done, cpu_of_workers(ray), time.monotonic())))

    import torch

    torch.set_num_threads(1 if given.way == "one" else 2)
    asked = EmbedOptions(as_="parquet", shard_size=SIZES["shard_size"], **how)
    place = Path(given.folder)
    summary, made, _, _ = embed_shards(
        recipe_of(given), str(place / given.way), [place / "images"], asked, Watched(quiet=True)
    )
    first = next(mark for mark in marks if mark[0] >= workers)
    images = SIZES["shard_size"] * (marks[-1][0] - first[0])
    return {
        "cpu": 1000 * (marks[-1][1] - first[1]) / images,
        "wall": 1000 * (marks[-1][2] - first[2]) / images,
        "rows": summary.rows,
        "folder": str(made.root),
    }


def cpu_of_workers(of_ray: bool) -> float:
    """CPU seconds of this process, or of the actors among those that it started."""
    if not of_ray:
        return time.process_time()
    parents, names, spent = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "stat").read_text().rpartition(")")[2].split()
            names[int(path.name)] = (path / "cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        parents[int(path.name)] = int(words[1])
        spent[int(path.name)] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def is_ours(process: int) -> bool:
        while process in parents and process != os.getpid():
            process = parents[process]
        return process == os.getpid()

    return sum(spent[each] for each in spent if names.get(each, b"").startswith(b"ray::RayWorker") and is_ours(each))


def actors(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        jpegs(Path(place) / "images", given.images)
        ways = {way: step(given, "actors", place, way=way) for way in ("one", "both", "ray")}
        contents = [
            {file.name: file.read_bytes() for file in Path(each.pop("folder")).glob("*.parquet")}
            for each in ways.values()
        ]
    return {
        "images": given.images,
        "load": os.getloadavg()[0],
        "equal": all(each == contents[0] for each in contents),
        **{f"{way} {name}": value for way, each in ways.items() for name, value in each.items()},
        "cpu of ray to one": ways["ray"]["cpu"] / ways["one"]["cpu"],
        "wall of ray to one": ways["ray"]["wall"] / ways["one"]["wall"],
        "wall of ray to both": ways["ray"]["wall"] / ways["both"]["wall"],
    }


def names_only(rows: list) -> dict[str, list]:
    """A stage that opens no image."""
    return {"characters": [len(row.path) for row in rows]}


def written_list(path: Path, count: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, pa.schema({"id": pa.string(), "url": pa.string()})) as writer:
        for start in range(0, count, 100_000):
            ids = [f"{number:012d}" for number in range(start, min(start + 100_000, count))]
            writer.write_table(pa.table({"id": ids, "url": [f"https://images.test/{each}.jpg" for each in ids]}))


def rows_step(given: argparse.Namespace) -> dict[str, Any]:
    """A plan of many rows, whose ids are all compared, all of its tasks looked at, some of them run."""
    from index_scale import _peak, _watched

    from vladapt.core.shards import Manifest, ShardPlace, build_executor, drive, function_stage
    from vladapt.core.shards.driver import Job

    folder = Path(given.folder)
    before, started = _peak(), time.process_time()

    def work() -> tuple[int, int]:
        place = ShardPlace(str(folder / "out"))
        manifest = Manifest.of([str(folder / "list.parquet")], place, folder / "cache")
        tasks = sum(1 for _ in manifest.plan(10_000))
        stage = function_stage(names_only, {"characters": "int64"})
        job = Job.of(stage, manifest, place, shard_size=10_000, batch_size=BATCH, part=(0, tasks // SPREAD_SHARDS))
        return tasks, drive(job, build_executor("serial")).rows

    (tasks, rows), most = _watched(work)
    return {"tasks": tasks, "run": rows, "MB": most, "MB before": before, "CPU s": time.process_time() - started}


def rows(given: argparse.Namespace) -> dict[str, Any]:
    made = {}
    for count in (SMALL, given.rows):
        with tempfile.TemporaryDirectory() as place:
            written_list(Path(place) / "list.parquet", count)
            made[count] = step(given, "rows", place, rows=count)
    few, many = made[SMALL], made[given.rows]
    return {"few": {"rows": SMALL, **few}, "many": {"rows": given.rows, **many}, "ratio": many["MB"] / few["MB"]}


STEPS: dict[str, Callable[[argparse.Namespace], Any]] = {"embed": embed_step, "actors": actors_step, "rows": rows_step}
WORKS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"embed": embed, "actors": actors, "rows": rows}


def step(given: argparse.Namespace, work: str, folder: str, way: str = "", rows: int = 0) -> Any:
    """What one process measures."""
    options = {"images": given.images, "backbone": given.backbone, "rounds": given.rounds, "folder": folder}
    options["rows"] = rows or given.rows
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, __file__, work, *words, "--step", *(["--way", way] if way else [])]
    threads = {"one": "1", "ray": "1"}.get(way, str(given.threads))
    place = str(Path(__file__).parent)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": place, "VLADAPT_CACHE": f"{folder}/cache"}
    made = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(made.stdout.splitlines()[-1])


def lines(made: dict[str, Any]) -> Iterator[str]:
    for name, value in made.items():
        if isinstance(value, dict):
            yield f"  {name}: {', '.join(lines_of_words(value))}"
        else:
            yield f"  {name}: {shown(value)}"


def lines_of_words(values: dict[str, Any]) -> Iterator[str]:
    return (f"{name} {shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("works", nargs="+", choices=list(WORKS))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of `embed`, for both")
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--results", type=Path, help="JSON file of what was measured: that is not measured again")
    parser.add_argument("--step", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.works[0]](given)))
        return
    results = json.loads(given.results.read_text()) if given.results and given.results.exists() else {}
    for work in given.works:
        if work not in results:
            results[work] = WORKS[work](given)
            if given.results:
                given.results.write_text(json.dumps(results, indent=2))
        print(work, *lines(results[work]), sep="\n", flush=True)


if __name__ == "__main__":
    main()
