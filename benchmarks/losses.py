"""The tables of objectives in docs/losses.md.

python benchmarks/losses.py > docs/losses.md
"""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from vladapt import build_loss
from vladapt.core.contracts.options import options_of
from vladapt.core.registry import catalogue, loss_class

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
made of the data and the towers, or refused in one line. `medclip` needs findings, which pairs do not hold: it is for a
trainer of your own that gives them. `python benchmarks/losses.py` prints this page.

| name | what | needs | paper |
|---|---|---|---|
"""
OPTIONS = """
## Options

| loss | option | default | accepts | what |
|---|---|---|---|---|
"""


def main() -> None:
    losses = {name: entry for name, entry in sorted(catalogue.losses().items()) if entry.entry_point is None}
    print(HEAD, end="")
    for name, entry in losses.items():
        print(row_of(name, entry))
    print(OPTIONS, end="")
    for name in losses:
        for each in options_of(loss_class(name)):
            print(row(f"`{name}`", f"`{each.name}`", f"`{each.default_text}`", each.accepts, each.help))


def row_of(name: str, entry) -> str:
    """A line of the table of losses."""
    module = importlib.import_module(f"vladapt.{entry.module}")
    loss = build_loss(name, DIMS)
    text = ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    text += "\n" + (loss.__doc__ or "")
    papers = dict.fromkeys(re.findall(r"arXiv[: ]+(\d{4}\.\d{4,5})", text))
    return row(
        f"`{name}`",
        text.splitlines()[0].rstrip(".") + (" (experimental)" if loss.experimental else ""),
        ", ".join(sorted(loss.needs)),
        ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
    )


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


if __name__ == "__main__":
    main()
