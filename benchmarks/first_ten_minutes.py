"""The first ten minutes of a new user: every command in an environment of its own, with its cost and its lines.

    python benchmarks/first_ten_minutes.py [--python PYTHON] [--wheel FILE] [--here] [--json]

Makes a virtual environment below a temporary folder, installs this checkout into it, and runs the commands of the
first pages in turn: CPU seconds of each with all its processes, seconds by the clock, lines printed, and whether it
ended with the exit code that it should. The photographs are the natural domain's sample, written as class folders.
`--here` takes the environment of this Python instead: what follows the installation. Only the installation uses a
network; `setup` is asked without one, for its line. Ends with 1 where a command ends otherwise than expected.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "embedded,medical,natural,retrieval,export"
PHOTOS = """
import sys
from pathlib import Path
from PIL import Image
from vladapt import load_domain
sample = load_domain("natural").sample("classification")
for item in sample.split("train") + sample.split("test"):
    folder = Path(sys.argv[1], item.split, sample.class_names[item.target.index])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.load(item)).save(folder / f"{item.id.replace('/', '_')}.png")
"""
ADAPTERS = "linear-probe,tip-adapter,taskres,gda"
HEAD = "| step | CPU seconds | seconds | lines | exit code |\n| --- | ---: | ---: | ---: | ---: |"
OFFLINE = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Command:
    """What a user types; `warns` is a word that it should print, `code` the exit code that it should end with."""

    step: str
    words: tuple[str, ...]
    code: int = 0
    warns: str = ""


@dataclass(frozen=True)
class Cost:
    step: str
    cpu_seconds: float
    seconds: float
    lines: int
    code: int
    as_expected: bool


COMMANDS = (
    Command("fit, packaged features of a CLIP", ("fit", "--features", "sample", "--out", "clip")),
    Command(
        "compare on them", ("compare", "--features", "sample", "--adapters", ADAPTERS, "--shots", "4", "--seeds", "1")
    ),
    Command("fit, medical sample", ("fit", "--domain", "medical", "--out", "medical")),
    Command("fit, folder of photographs", ("fit", "photos/train", "--out", "photo-runs")),
    Command("predict 280 photographs", ("predict", "photo-runs/{run}", "photos/test")),
    Command("export", ("export", "photo-runs/{run}", "--out", "model")),
    Command("index", ("index", "photos/test", "--out", "photos.index")),
    Command(
        "search, words that name nothing", ("search", "photos.index", "such as those which were"), warns="stand out"
    ),
    Command("setup, without a network", ("setup", "--backbone", "openai-vit-b-16"), code=1),
)


def main() -> int:
    arguments = _parser().parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        for cost in _steps(Path(name), arguments):
            costs.append(cost)
            if not arguments.json:
                print("" if costs[1:] else f"{HEAD}\n", _row(cost), sep="", flush=True)
    print(json.dumps([asdict(cost) for cost in costs]) if arguments.json else _row(_in_all(costs)))
    return 0 if all(cost.as_expected for cost in costs) else 1


def _steps(folder: Path, arguments: argparse.Namespace) -> Iterator[Cost]:
    python = sys.executable
    if not arguments.here:
        python = str(folder / "environment" / "bin" / "python")
        yield _run(Command("new environment", ("-m", "venv", "environment")), (arguments.python,), folder)
        what = f"{arguments.wheel.resolve() if arguments.wheel else ROOT}[{EXTRAS}]"
        pip = (python, "-m", "pip", "--disable-pip-version-check")
        yield _run(Command("install", ("install", "--quiet", what)), pip, folder, offline=False)
    work = folder / "work"
    work.mkdir()
    _run(Command("photographs", (PHOTOS, "photos")), (python, "-c"), work)
    for command in COMMANDS:
        yield _run(command, (python, "-m", "vladapt"), work)


def _run(command: Command, start: tuple[str, ...], folder: Path, offline: bool = True) -> Cost:
    """What a command costs; its last lines go to stderr where it does not end as it should."""
    run = next((path.name for path in sorted(folder.glob("photo-runs/*"))), "")
    words = [word.replace("{run}", run) for word in command.words]
    environment = {**os.environ, **(OFFLINE if offline else {}), "VLADAPT_CACHE": str(folder / "cache")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run((*start, *words), cwd=folder, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = done.stdout + done.stderr
    expected = done.returncode == command.code and command.warns in printed and "Traceback" not in printed
    if not expected:
        print(f"{command.step}: {done.returncode}\n{printed[-2000:]}", file=sys.stderr, flush=True)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(command.step, cpu, seconds, len(printed.splitlines()), done.returncode, expected)


def _row(cost: Cost) -> str:
    code = f"{cost.code}" if cost.as_expected else f"{cost.code}, not as expected"
    return f"| {cost.step} | {cost.cpu_seconds:.1f} | {cost.seconds:.1f} | {cost.lines} | {code} |"


def _in_all(costs: list[Cost]) -> Cost:
    expected = all(cost.as_expected for cost in costs)
    cpu, seconds = sum(cost.cpu_seconds for cost in costs), sum(cost.seconds for cost in costs)
    return Cost("in all", cpu, seconds, sum(cost.lines for cost in costs), int(not expected), expected)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="Python that makes the new environment")
    parser.add_argument("--wheel", type=Path, help="wheel to install, instead of this checkout")
    parser.add_argument("--here", action="store_true", help="the environment of this Python, nothing installed")
    parser.add_argument("--json", action="store_true", help="one JSON object per step, instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
