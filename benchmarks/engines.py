"""Engines for shard tasks under kill -9: the table in docs/measurements/scale.md.

    python benchmarks/engines.py                    # all engines; a quarter of an hour on 2 cores
    python benchmarks/engines.py ray_core --page    # one, or some; their rows go into docs/measurements/scale.md

Each engine runs the stage of `engine_trials/stage.py` (30 shards, 240 images) by the prototype of its name, on a
cluster of two nodes of one core on this machine. What is killed is killed when 8 parts are there. A run that is not
over after --patience seconds is stopped; where images are missing, the same command is run again.

The engines need `pip install ray datatrove`; ray comes with the extra `ray`, datatrove with none.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TRIALS = Path(__file__).resolve().parent / "engine_trials"
PAGE = TRIALS.parents[1] / "docs" / "measurements" / "scale.md"
ENGINES = {
    "plain_loop": "a plain loop",
    "ray_core": "Ray Core, the driver's queue",
    "ray_restarts": "Ray Core, `ActorPool`, `max_restarts=-1`",
    "ray_data": "Ray Data, `from_items(tasks).map(Class)`",
    "datatrove_local": "DataTrove, `LocalPipelineExecutor`",
    "datatrove_ray": "DataTrove, `RayPipelineExecutor`",
}
SOON = 8  # parts
IMAGES, POISONED = 240, 117
ALONE = ("plain_loop", "datatrove_local")  # without a cluster


class Cluster:
    """Two nodes of one core each on this machine; a lost one is replaced before the next case."""

    def __init__(self):
        import ray
        from ray.cluster_utils import Cluster as OfRay

        self.ray, self.nodes = ray, OfRay(initialize_head=True, head_node_args=self.node())
        self.second = self.nodes.add_node(**self.node())

    @staticmethod
    def node() -> dict:
        return {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}

    @property
    def address(self) -> str:
        return self.nodes.address

    def lose(self) -> None:
        self.nodes.remove_node(self.second, allow_graceful=False)
        self.second = None

    def whole(self) -> None:
        if self.second is None:
            self.second = self.nodes.add_node(**self.node())

    def stop(self) -> None:
        self.nodes.shutdown()


class Trial:
    """One engine in one case, in a folder of its own."""

    def __init__(self, engine: str, cluster: Cluster | None, patience: float):
        self.engine, self.cluster, self.patience = engine, cluster, patience
        self.out = Path(tempfile.mkdtemp(prefix=f"{engine}-"))
        self.drivers: list[subprocess.Popen] = []

    def start(self) -> None:
        address = self.cluster.address if self.cluster else "-"
        command = [sys.executable, str(TRIALS / f"{self.engine}.py"), str(self.out), address]
        log = (self.out / "_log").open("ab")
        self.drivers.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def images(self) -> list[int]:
        lines = [line for part in self.out.glob("part-*.jsonl") for line in part.read_text().splitlines()]
        return sorted(json.loads(line)["id"] for line in lines)

    def parts(self, count: int) -> None:
        """Wait until so many are there."""
        end = time.monotonic() + self.patience
        while len(list(self.out.glob("part-*.jsonl"))) < count and time.monotonic() < end:
            time.sleep(0.02)

    def kill_worker(self) -> None:
        workers = [int(path.name) for path in (self.out / "_workers").iterdir()]
        alive = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
        os.kill(max(alive), signal.SIGKILL)

    def kill_driver(self) -> None:
        self.drivers[0].kill()
        self.drivers[0].wait()

    def end(self) -> str:
        """How the drivers that run end: "" where by themselves without an error."""
        end, words = time.monotonic() + self.patience, ""
        for driver in self.drivers:
            try:
                code = driver.wait(max(0.1, end - time.monotonic()))
                words = words or (f"ends with {code}" if code not in (0, -signal.SIGKILL) else "")
            except subprocess.TimeoutExpired:
                words = "not over"
                os.killpg(driver.pid, signal.SIGKILL)
                driver.wait()
        self.drivers.clear()
        return words


def measured(engine: str, cluster: Cluster | None, patience: float, disturb: Callable[[Trial], None]) -> str:
    """A cell: images and seconds of the command, and of the same command again where images are missing."""
    trial, cells = Trial(engine, cluster, patience), []
    for again in (False, True):
        started = time.monotonic()
        trial.start()
        if not again:
            disturb(trial)
        how = trial.end()
        images = trial.images()
        twice = "" if len(images) == len(set(images)) else ", some twice"
        how = f", {how}" if how else ""
        cells.append(f"{len(set(images))}{twice}{how}, {time.monotonic() - started:.0f} s")
        if len(images) >= IMAGES - poisoned(trial):
            break
    return "; again: ".join(cells)


def poisoned(trial: Trial) -> int:
    return len(list(trial.out.glob("_poison/*")))


def undisturbed(trial: Trial) -> None:
    pass


def worker_killed(trial: Trial) -> None:
    trial.parts(SOON)
    trial.kill_worker()


def driver_killed(trial: Trial) -> None:
    trial.parts(SOON)
    trial.kill_driver()


def node_killed(trial: Trial) -> None:
    trial.parts(SOON)
    trial.cluster.lose()


def two_drivers(trial: Trial) -> None:
    trial.start()


def poison(trial: Trial) -> None:
    (trial.out / "_poison").mkdir()
    (trial.out / "_poison" / str(POISONED)).touch()


CASES = {
    "undisturbed": undisturbed,
    "worker killed": worker_killed,
    "driver killed": driver_killed,
    "node of two killed": node_killed,
    "two drivers": two_drivers,
    "image that kills": poison,
}


def lines_of_code(engine: str) -> int:
    """Of a prototype, without blank lines, comments and the docstring at its head."""
    text = (TRIALS / f"{engine}.py").read_text(encoding="utf-8").split('"""', 2)[2]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def row(engine: str, patience: float, cases: list[str]) -> str:
    cluster = None if engine in ALONE else Cluster()
    cells = [ENGINES[engine], str(lines_of_code(engine))]
    try:
        for case in cases:
            if case == "node of two killed" and cluster is None:
                cells.append("–")
                continue
            if cluster:
                cluster.whole()
            cells.append(measured(engine, cluster, patience, CASES[case]))
            print(f"{engine}, {case}: {cells[-1]}", file=sys.stderr, flush=True)
    finally:
        if cluster:
            cluster.stop()
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"of {', '.join(ENGINES)}; all by default")
    parser.add_argument("--case", action="append", choices=list(CASES), help="all by default")
    parser.add_argument("--page", action="store_true", help=f"write the rows into {PAGE.name}; needs all cases")
    parser.add_argument("--patience", type=float, default=45, help="seconds after which a run is stopped")
    given = parser.parse_args()
    if unknown := [name for name in given.engines if name not in ENGINES]:
        parser.error(f"there is no engine {unknown[0]}; there are {', '.join(ENGINES)}")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_DATA_DISABLE_PROGRESS_BARS="1")
    os.environ["PYTHONPATH"] = str(TRIALS.parent)
    if given.page and given.case:
        parser.error("--page needs all cases; omit --case")
    cases = given.case or list(CASES)
    print(f"| engine | lines | {' | '.join(cases)} |\n|{'---|' * (len(cases) + 2)}")
    for engine in given.engines or ENGINES:
        line = row(engine, given.patience, cases)
        print(line, flush=True)
        if given.page:
            PAGE.write_text(with_row(PAGE.read_text(encoding="utf-8"), engine, line), encoding="utf-8")


def with_row(page: str, engine: str, line: str) -> str:
    """The page with the row of an engine written anew."""
    lines = page.split("\n")
    place = next(number for number, text in enumerate(lines) if text.startswith(f"| {ENGINES[engine]} |"))
    return "\n".join([*lines[:place], line, *lines[place + 1 :]])


if __name__ == "__main__":
    main()
