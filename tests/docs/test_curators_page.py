"""docs/curators.md is what the command prints, with each curator once."""

from __future__ import annotations

import re
from pathlib import Path

import curators_page

from vladapt.core.registry.catalogue import curators

PAGE = Path(__file__).resolve().parents[2] / "docs" / "curators.md"


def test_the_page_is_what_the_command_prints(capsys):
    curators_page.main()
    page = PAGE.read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, "python benchmarks/curators_page.py > docs/curators.md"
    ours = {name for name, entry in curators().items() if entry.entry_point is None}
    assert sorted(re.findall(r"^### ([\w-]+)$", page, re.MULTILINE)) == sorted(ours)


def test_a_paper_is_a_link_also_where_a_line_ends_within():
    shown = curators_page.PAPER.sub(r"arXiv\1[\2]", "Conceptual 12M (2021, arXiv\n2102.08981), arXiv 1805.00932")
    assert shown == "Conceptual 12M (2021, arXiv\n[2102.08981]), arXiv [1805.00932]"
