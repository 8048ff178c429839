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
for item in sample.items:
    folder = Path(sys.argv[1], item.split, sample.class_names[item.target.index])
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample.load(item)).save(folder / f"{item.id.replace('/', '_')}.png")
"""
ADAPTERS = "linear-probe,tip-adapter,taskres,gda"
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
    Command("compare on them", ("compare", "--features", "sample", "--adapters", ADAPTERS, "--shots", "1,4,16")),
    Command("fit, medical sample", ("fit", "--domain", "medical", "--out", "medical")),
    Command("fit, folder of photographs", ("fit", "photos/train", "--out", "photo-runs")),
    Command("predict 120 photographs", ("predict", "photo-runs/{run}", "photos/test")),
    Command("compare on the photographs", ("compare", "photos/train", "--adapters", ADAPTERS, "--shots", "4")),
    Command("export", ("export", "photo-runs/{run}", "--out", "model")),
    Command("index", ("index", "photos/test", "--out", "photos.index")),
    Command(
        "search, for what is not there", ("search", "photos.index", "chest radiograph of a child"), warns="stand out"
    ),
    Command("setup, without a network", ("setup", "--backbone", "openai-vit-b-16"), code=1),
)


def main() -> int:
    arguments = _parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs = [] if arguments.here else _install(folder, arguments.python, arguments.wheel)
        python = Path(sys.executable) if arguments.here else folder / "environment" / "bin" / "python"
        if all(cost.as_expected for cost in costs):
            (folder / "work").mkdir()
            _run(Command("", (PHOTOS, "photos")), (str(python), "-c"), folder / "work")
            costs += [_run(command, (str(python), "-m", "vladapt"), folder / "work") for command in COMMANDS]
    print(json.dumps([asdict(cost) for cost in costs]) if arguments.json else _table(costs))
    return 0 if all(cost.as_expected for cost in costs) else 1


def _install(folder: Path, python: str, wheel: Path | None) -> list[Cost]:
    """A new environment in `folder`, with this checkout or a wheel of it."""
    what = f"{wheel.resolve() if wheel else ROOT}[{EXTRAS}]"
    made = _run(Command("new environment", ("-m", "venv", "environment")), (python,), folder)
    pip = ("environment/bin/python", "-m", "pip", "--disable-pip-version-check")
    return [made, _run(Command("install", ("install", "--quiet", what)), pip, folder)]


def _run(command: Command, start: tuple[str, ...], folder: Path) -> Cost:
    """What a command costs; its last lines go to stderr where it does not end as it should."""
    run = next((path.name for path in sorted(folder.glob("photo-runs/*"))), "")
    words = [word.replace("{run}", run) for word in command.words]
    environment = {**os.environ, **OFFLINE, "VLADAPT_CACHE": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    if command.step == "install":
        environment = dict(os.environ)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run((*start, *words), cwd=folder, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    printed = done.stdout + done.stderr
    expected = done.returncode == command.code and command.warns in printed and "Traceback" not in printed
    if not expected:
        print(f"{command.step}: {done.returncode}\n{printed[-2000:]}", file=sys.stderr, flush=True)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(command.step, cpu, seconds, len(printed.splitlines()), done.returncode, expected)


def _table(costs: list[Cost]) -> str:
    rows = [("step", "CPU seconds", "seconds", "lines", "exit code"), ("---", "---:", "---:", "---:", "---:")]
    for cost in costs:
        code = f"{cost.code}" if cost.as_expected else f"{cost.code}, not as expected"
        rows.append((cost.step, f"{cost.cpu_seconds:.1f}", f"{cost.seconds:.1f}", f"{cost.lines}", code))
    total = sum(cost.cpu_seconds for cost in costs), sum(cost.seconds for cost in costs), sum(c.lines for c in costs)
    rows.append(("in all", f"{total[0]:.1f}", f"{total[1]:.1f}", f"{total[2]}", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="Python that makes the new environment")
    parser.add_argument("--wheel", type=Path, help="wheel to install, instead of this checkout")
    parser.add_argument("--here", action="store_true", help="the environment of this Python, nothing installed")
    parser.add_argument("--json", action="store_true", help="one JSON object per step, instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
