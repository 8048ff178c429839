"""The table of objectives in docs/losses.md.

    python benchmarks/losses.py > docs/losses.md
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

from vladapt import build_loss
from vladapt.core.registry import catalogue

DIMS = {
    "embed_dim": 8,
    "image_width": 8,
    "text_width": 8,
    "context_length": 8,
    "vocab_size": 8,
    "num_samples": 8,
    "num_classes": 2,
}
HEAD = """# Objectives

One file each in `core/losses/`, named on the command line by `--loss NAME` or `--loss NAME=WEIGHT`, several times to
add them up; options by `--set loss.NAME.OPTION=VALUE`. A loss is a function of the global batch: value and gradients
do not depend on how many processes or micro-batches the batch was cut into. What it needs is asked for by name, and
made of the data and the towers, or refused in one line. `python benchmarks/losses.py` prints this page.

| name | what | needs | options and defaults | paper |
|---|---|---|---|---|
"""


def main() -> None:
    print(HEAD, end="")
    for name, entry in sorted(catalogue.losses().items()):
        if entry.entry_point is None:
            print(row_of(name, entry))


def row_of(name: str, entry) -> str:
    """A line of the table."""
    module = importlib.import_module(f"vladapt.{entry.module}")
    loss = build_loss(name, DIMS)
    text = ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    text += "\n" + (loss.__doc__ or "")
    papers = dict.fromkeys(re.findall(r"arXiv[: ]+(\d{4}\.\d{4,5})", text))
    cells = [
        f"`{name}`",
        text.splitlines()[0].rstrip(".") + (" (experimental)" if loss.experimental else ""),
        ", ".join(sorted(loss.needs)),
        ", ".join(f"{key}={value!r}" for key, value in options_of(loss)),
        ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
    ]
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


def options_of(loss) -> list[tuple[str, object]]:
    """(name, default) of its keyword arguments."""
    parameters = inspect.signature(type(loss).__init__).parameters
    return [(key, value.default) for key, value in parameters.items() if key not in ("self", "dims")]


if __name__ == "__main__":
    main()
