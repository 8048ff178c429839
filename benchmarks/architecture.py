"""The picture of docs/architecture.md: the rooms of the package in the layers that pyproject.toml declares.

    python benchmarks/architecture.py    # writes docs/pictures/architecture.svg

`make lint` checks the layers, and a test that the picture is of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from usage import print_help

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
WIDTH, ROW, GAP, LEFT = 960, 46, 8, 20
LIBRARY = "training"
"""The highest room of the library."""
ABOVE = [["cli.py", "api.py", "testing.py"], ["adapters", "domains"]]
HOLDS = {
    "cli.py": "the command line",
    "api.py": "public names",
    "testing.py": "checks of plug-ins",
    "adapters": "methods, one per file",
    "domains": "medical, video, ...: reading, words, tasks, recipes",
    "testing": "checks of plug-ins",
    "commands": "flags, tables, JSON",
    "engine": "fit, compare, predict, index, ...",
    "bench": "published sets",
    "sharing": "hub, MLflow",
    "tasks": "what is fitted, scored and written",
    "judgements": "what is said of a fit",
    "retrieval": "indexes and queries",
    "serving": "HTTP",
    "curation": "pairs",
    "explanation": "why",
    "export": "ONNX",
    "forgetting": "the probe",
    "labelling": "what to label",
    "recipes": "from flags to a recipe",
    "runs": "run folders, reports",
    "training": "towers (mmengine) and small heads",
    "losses": "objectives, one per file",
    "curators": "which pairs, one per file",
    "confidence": "calibration, sets, abstention",
    "backbones": "two towers behind one interface",
    "prompts": "class texts",
    "features": "computed once, kept by content",
    "shards": "plans of idempotent tasks",
    "data": "readers, splits, shots, pairs",
    "robustness": "corruptions",
    "registry": "from a name to the thing",
    "contracts": "the nouns: Adapter, Domain, Task, Judgement, FeatureSet, ...",
    "outputs": "kinds of output: files of rows",
    "metrics": "scores, intervals, tests",
    "runtime": "files, ranks, progress",
    "errors": "what users are told",
    "lazy": "exports at first use",
}


def layers(text: str) -> list[list[str]]:
    """The layers of `core`, the highest first, each with its rooms, as the text of pyproject.toml has them."""
    declared = re.search(r'containers = \["vladapt\.core"\].*?layers = (\[.*?\n\])', text, re.S)[1]
    return [[room.strip() for room in layer.split("|")] for layer in ast.literal_eval(declared)]


def svg(rows: Sequence[Sequence[str]]) -> str:
    """The rows from top to bottom, rooms of one row side by side; a line between the library and what is made of it."""
    parts, top = [], GAP
    for rooms in rows:
        if LIBRARY in rooms:
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{top + 6}" y2="{top + 6}" class="border"/>')
            parts.append(f'<text x="{WIDTH - LEFT}" y="{top + 22}" class="side" text-anchor="end">the library</text>')
            top += 26
        width = (WIDTH - 2 * LEFT - GAP * (len(rooms) - 1)) / len(rooms)
        for place, room in enumerate(rooms):
            x, kind = LEFT + place * (width + GAP), "room" if rooms not in ABOVE else "above"
            parts.append(
                f'<rect x="{x:.0f}" y="{top}" width="{width:.0f}" height="{ROW - GAP}" rx="5" class="{kind}"/>'
            )
            parts.append(f'<text x="{x + 12:.0f}" y="{top + 24}" class="name">{escape(room)}</text>')
            gloss = escape(HOLDS[room])
            parts.append(
                f'<text x="{x + width - 12:.0f}" y="{top + 24}" class="holds" text-anchor="end">{gloss}</text>'
            )
        top += ROW
    style = (
        "text{font-family:system-ui,sans-serif;font-size:13px;fill:#1d2733}.name{font-weight:600}"
        ".holds{fill:#52606d;font-size:12px}.side{fill:#52606d;font-size:11px}"
        ".room{fill:#eef3f8;stroke:#9fb3c8}.above{fill:#fdf3e3;stroke:#d9a441}"
        ".border{stroke:#9fb3c8;stroke-dasharray:4 4}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">'
    title = "<title>The rooms of vladapt: each imports only from rows below its own</title>"
    ground = f'<rect width="{WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, title, f"<style>{style}</style>", ground, *parts, "</svg>"]) + "\n"


def picture() -> str:
    """The picture of the layers as they are declared now."""
    return svg([*ABOVE, *layers((ROOT / "pyproject.toml").read_text(encoding="utf-8"))])


if __name__ == "__main__":
    print_help(__doc__)
    PICTURE.write_text(picture(), encoding="utf-8")
