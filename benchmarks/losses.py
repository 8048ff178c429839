"""The tables of losses in docs/losses.md.

python benchmarks/losses.py > docs/losses.md
"""

from __future__ import annotations

import ast
import importlib
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from usage import print_help

from vladapt import build_loss
from vladapt.core.contracts.loss import RowLoss
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
    "num_labels": 2,
    "patches": 4,
    "patch_values": 8,
}
HEAD = """# Losses

Each loss is a file in `core/losses/`, or in the folder `losses/` of a domain. `--loss NAME` or `--loss NAME=WEIGHT`
chooses it, several times for a sum; `--set loss.NAME.OPTION=VALUE` sets an option. A loss is a function of
the global batch: value and gradients do not depend on how many processes or micro-batches the batch is divided into. A
loss declares its inputs by name; they are made from the data and the towers, or the loss is refused in one line.
`medclip`, `medflip`, `medklip` and `medslip` need a column `findings`: for each finding 1 (present), -1 (absent) or 0
(uncertain, or nothing known); the last two of them also `relations`: for each finding at each position 1, 0 (not there)
or nothing. `arl` needs `entities`: for each entity 1 where a text of the image mentions it, else 0.
`python benchmarks/losses.py` prints this page.

| name | what it is | needs | paper |
|---|---|---|---|
"""
PROCESSES = """
## Several processes

Each of W processes has n = N / W of the batch's rows. Losses over pairs are computed by rows: each process compares its
own rows with the columns of all, which is 1 / W of the arithmetic of one process. (`rankclip` needs 16 / 13 of that: a
text that ranks all images needs scores that one process has already.) The memory needed at once, beside features:

| computed by rows | in memory |
|---|---|
| `alip`, `clip`, `long-clip`, `unicl`, `unipt`, CLIP's loss in `silc` | blocks of n x N, and the N x D columns |
| `siglip` | blocks of n x n; captions and their gradients pass from process to process, N x D is never in memory |
| `matryoshka` | what the other loss needs, at each width |
| `codebook`, `m-clip` | its own rows, n x D |
| `dino-v2` | scores of K prototypes for its own crops and hidden patches; nearest images n x N |
| {rest} | n x N a few times, until the backward pass |

A block has at most 2^22 numbers on a CPU. On a GPU it takes at most 1/32 of the memory, which usually has room for the
whole n x N, as one product. In one process n is N, and blocks keep N x N out of memory. With
`--set loss.clip.products=bf16`, and likewise for each of them, pairs are multiplied in bf16 and summed up in float32.

{whole}

Each process has the value of the whole batch, and also its gradients once they are averaged over processes, as
DistributedDataParallel and FSDP do. A loss from another package gets the rows of all processes; if it derives from
`RowLoss` (CONTRIBUTING.md), its work is divided too. `python benchmarks/loss_per_rank.py` measures it per process.
"""
WHOLE = (
    "All others ({names}) are computed on the whole batch by every process. Of these `filip` needs N x N, "
    "`slip` 2N x 2N for its views, `declip` N x N for its neighbours, `momentum-queue` N times its queue, `dreamlip` "
    "N x N per sub-caption if its circle loss is on, `rde` N x N for each of its two embeddings; the contrastive loss "
    "over pairs in `declip`, `dreamlip`, `protoclip` and `slip` is computed in blocks."
)
IN_BLOCKS = {"alip", "clip", "codebook", "dino-v2", "long-clip", "m-clip", "matryoshka", "siglip", "silc", "unicl"}
IN_BLOCKS |= {"unipt"}
OPTIONS = """
## Options

| loss | option | default | accepts | what it is |
|---|---|---|---|---|
"""


def main() -> None:
    losses = {name: entry for name, entry in sorted(catalogue.losses().items()) if entry.entry_point is None}
    print(HEAD, end="")
    for name, entry in losses.items():
        print(row_of(name, entry))
    print(processes(set(losses)), end="")
    print(OPTIONS, end="")
    for name in losses:
        for each in options_of(loss_class(name)):
            print(row(f"`{name}`", f"`{each.name}`", f"`{each.default_text}`", each.accepts, each.help))


def processes(names: set[str]) -> str:
    """What each of several processes computes and has in memory."""
    by_rows = {name for name in names if issubclass(loss_class(name), RowLoss)}
    rest, whole = (_listed(some) for some in (by_rows - IN_BLOCKS, names - by_rows))
    return PROCESSES.format(rest=rest, whole=textwrap.fill(WHOLE.format(names=whole), 120, break_on_hyphens=False))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def row_of(name: str, entry) -> str:
    """A line of the table of losses."""
    module = importlib.import_module(f"vladapt.{entry.module}")
    loss = build_loss(name, DIMS)
    text = ast.get_docstring(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
    text += "\n" + (loss.__doc__ or "")
    papers = dict.fromkeys(re.findall(r"arXiv[:\s]+(\d{4}\.\d{4,5})", text))
    return row(
        f"`{name}`",
        text.splitlines()[0].rstrip(".") + (" (experimental)" if loss.experimental else ""),
        ", ".join(sorted(loss.needs)),
        ", ".join(f"[{paper}](https://arxiv.org/abs/{paper})" for paper in papers),
    )


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"


if __name__ == "__main__":
    print_help(__doc__)
    main()
