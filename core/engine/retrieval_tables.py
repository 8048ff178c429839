"""Retrieval as tables for a terminal: what a search found, and scores before and after a training."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..retrieval.index import Hit


def hits_table(hits: Sequence[Hit]) -> Table:
    """One row a result: rank, cosine, what it is, its captions where it has some."""
    captioned = any(hit.entry.captions for hit in hits)
    table = Table()
    for name in ("rank", "score"):
        table.add_column(name, justify="right")
    for name in ("found", "text")[: 1 + captioned]:
        table.add_column(name, overflow="fold")
    for hit in hits:
        cells = [str(hit.rank), f"{hit.score:.4f}", hit.entry.id]
        table.add_row(*cells, *(["\n".join(hit.entry.captions)] if captioned else []))
    return table
