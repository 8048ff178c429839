"""Type errors by room, as mypy counts them: none in `core/contracts` and among the public names, and elsewhere no more
than `type_errors.json` says.

python benchmarks/type_errors.py           # what there is and what is allowed; exit code 1 where there is more
python benchmarks/type_errors.py --write   # after errors were mended: no more than there are is allowed
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = Path(__file__).with_suffix(".json")
CACHE = ROOT / ".mypy_cache"
"""What was checked before is not checked again: `make lint` and the tests ask one after the other."""
FREE = ("core/contracts", "__init__.pyi")
"""Where there are none."""
ERROR = re.compile(r"^vladapt/((?:core|adapters|domains)/\w+|[\w.]+)\S*: error: ")


def mypy_lines(script: str = "") -> list[str]:
    """What mypy says of the package, and of a script that uses it (`script.py`)."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vladapt").symlink_to(ROOT, target_is_directory=True)
        (Path(folder) / "script.py").write_text(
            f"{script}\n# {secrets.token_hex()}\n"
        )  # or its notes are not told again
        config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(CACHE)]
        rooms = [word for room in ("core", "adapters", "domains") for word in ("-p", f"vladapt.{room}")]
        command = [sys.executable, "-m", "mypy", *config, "-m", "vladapt", "-m", "script", *rooms]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr or done.stdout)
    return done.stdout.splitlines()


def by_room(lines: Iterable[str]) -> Counter[str]:
    """Room, or file at the root -> errors."""
    return Counter(found[1] for line in lines if (found := ERROR.match(line)))


def beyond(counts: Counter[str], allowed: dict[str, int]) -> dict[str, int]:
    """Room -> errors, where there are more than allowed."""
    return {room: count for room, count in sorted(counts.items()) if count > allowed.get(room, 0)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="allow no more than there are now")
    arguments = parser.parse_args()
    counts = by_room(mypy_lines())
    if arguments.write:
        ALLOWED.write_text(json.dumps(dict(sorted(counts.items())), indent=2) + "\n")
    allowed = json.loads(ALLOWED.read_text())
    for room in sorted({*counts, *allowed, *FREE}):
        print(f"{room:<28} {counts[room]:>4} errors, {allowed.get(room, 0):>4} allowed")
    return 1 if beyond(counts, allowed) or any(counts[room] for room in FREE) else 0


if __name__ == "__main__":
    sys.exit(main())
