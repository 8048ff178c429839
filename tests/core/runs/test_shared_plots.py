"""What reports of tests share: plots of one kind, and no others."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

from shared_plots import share_plots

from vladapt.core.runs.sections import CurveSection

LOSS = CurveSection("Loss", {"clip": ([1, 2], [0.5, 0.4])}, "epoch", "loss", unit=False)


def test_plots_that_differ_in_heights_alone_are_drawn_once(tmp_path):
    drawn = []

    def curve_picture(section, small=False):
        drawn.append(section)
        return f"picture {len(drawn)}"

    reports = SimpleNamespace(curve_picture=curve_picture, page_template=cache(lambda: None))
    for _ in range(2):  # a second time changes nothing
        share_plots(reports, tmp_path)
    plot = reports.curve_picture
    assert plot(LOSS) == plot(replace(LOSS, curves={"clip": ([1, 2], [9.0, 8.0])})) == "picture 1"
    others = [
        replace(LOSS, curves={"clip": ([1, 2], [0.5, math.nan])}),
        replace(LOSS, curves={"clip": ([1, 2, 3], [0.5, 0.4, 0.3])}),
        replace(LOSS, curves={"silc": ([1, 2], [0.5, 0.4])}),
        replace(LOSS, title="Score"),
        replace(LOSS, marked=2, ring=True),
    ]
    assert len({plot(LOSS), plot(LOSS, small=True), *map(plot, others)}) == 7 == len(drawn)
