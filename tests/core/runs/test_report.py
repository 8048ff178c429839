"""One generator makes the report of every task: each kind of section, self-contained, every name escaped."""

from __future__ import annotations

import re

import numpy as np
import pytest
from html_page import Page

from vladapt.core.errors import DataError
from vladapt.core.metrics import CalibrationBin
from vladapt.core.runs import sections
from vladapt.core.runs.run_sections import Report, render_report, write_report
from vladapt.core.runs.sections import (
    Bar,
    BarsSection,
    CalibrationSection,
    Cell,
    CodeSection,
    ConfusionSection,
    CurveGridSection,
    CurveSection,
    ExplanationSection,
    HeadlineSection,
    Line,
    ListSection,
    Measure,
    MistakeSection,
    Number,
    PictureSection,
    Plot,
    PlotSection,
    Reasons,
    Search,
    SearchSection,
    TableSection,
    Track,
    VerdictSection,
    data_uri,
)

EVIL = """<script>alert("x")</script> ' onerror='x"""
IMAGE = np.zeros((4, 6, 3), np.uint8)
BINS = [CalibrationBin(0.0, 0.5, 0.4, 0.3, 7), CalibrationBin(0.5, 1.0, 0.0, 0.0, 0)]


def every_kind(text: str) -> list:
    """A section of each kind, with one text wherever there is one."""
    picture, curve = data_uri(IMAGE), CurveSection(text, {text: ([1, 2], [3.0, 4.0])}, text, text, text, unit=False)
    why = Reasons(picture, [(picture, text, text), (None, text, text)], text)
    mistakes = [(picture, text, text, text, 0.5), (None, text, text, text, 0.5)]
    return [
        HeadlineSection(
            [Number(text, text, text, True)],
            {text: [Track(text, 0.5, (0.4, 0.6), "floor")]},
            Measure(text),
            text,
            text,
            text,
        ),
        BarsSection(text, [Bar(text, 0.5, (0.4, 0.6), 0.3), Bar(text, 0.25)], text),
        VerdictSection("good", text, text, text),
        ListSection(text, [text]),
        ListSection("", [text], warning=True),
        TableSection(
            text, (text, Cell(text)), [text, (text, Cell(text, text, "up", (0.1, 0.2)))], text, total=(text, text)
        ),
        TableSection(text, (), [(text, text)], text, text_columns=2, sub=True),
        PictureSection(text, [(IMAGE, text)], text, columns=2),
        curve,
        CurveGridSection(text, [curve], minor=True, sub=True),
        PlotSection(text, [Plot(text, text, text, [Line(text, (0, 0.5, 1), (0.0, 9.0, 1.0))])], text, sub=True),
        ConfusionSection(text, [text, text], [[1, 2], [0, 0]]),
        CalibrationSection(text, (text, None, BINS), (text, 0.5, BINS), text, labels=True),
        MistakeSection(text, mistakes, True),
        MistakeSection(text, mistakes, True, True, [why, Reasons(None, [])], text),
        ExplanationSection(text, [(picture, text, text, 0.5, why), (None, text, text, 0.5, Reasons(None, []))], text),
        SearchSection(
            text, [(text, picture, [Search(text, 3, "up", [(None, 0.5, "right"), (picture, 0.5, "")])])], 8, 1
        ),
        CodeSection(text, [(text, text), (text, "")], text),
    ]


def report(shown, text: str = "word") -> Report:
    return Report(
        kind=text,
        title=text,
        lead=text,
        sections=shown,
        versions={text: text},
        place=text,
        created="2026-01-01T10:00:00",
    )


def test_there_is_a_section_of_every_kind_here():
    kinds = {thing.kind for thing in vars(sections).values() if isinstance(thing, type) and hasattr(thing, "kind")} - {
        Measure.kind
    }
    assert kinds == {section.kind for section in every_kind("word")}


def test_every_name_of_every_kind_is_escaped_and_nothing_is_loaded_or_run():
    html = render_report(report(every_kind(EVIL), EVIL))
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 70
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes and attributes.get("src", "data:image/").startswith("data:image/")


@pytest.mark.parametrize("section", every_kind("word"), ids=lambda section: section.kind)
def test_a_section_looks_the_same_wherever_it_stands(section):
    alone = render_report(report([section]))
    among = render_report(report([None, *every_kind("other"), section]))
    block = alone.partition("</header>")[2].partition("<footer>")[0]
    assert len(block) > 40 and among.endswith(block + among[among.index("<footer>") :])
    style = re.search("<style>.*</style>", alone, re.DOTALL).group()
    assert len(style) > 1000 and style in among


def test_a_bar_is_as_long_as_its_score_beside_that_of_zero_shot():
    html = render_report(report([BarsSection("All", [Bar("a", 0.5, (0.4, 0.65), 0.3), Bar("b", 0.25)])]))
    assert html.count('class="bar"') == 2 and html.count('class="bar zero"') == 1
    for part in ("width:50.00%", "left:40.00%;width:25.00%", "width:30.00%", "zero-shot 30.0%", "width:25.00%"):
        assert part in html


def test_head_and_foot_say_what_is_reported():
    html = render_report(
        Report(
            kind="Kind",
            title="Title",
            lead="Lead.",
            sections=[None],
            created="2026-01-02T03:04:05+00:00",
            place="There.",
        )
    )
    assert '<p class="eyebrow">Kind · 2026-01-02 03:04</p>' in html and "<h1>Title</h1>" in html
    assert "Lead." in html and "There." in html and "<section>" not in html


def test_the_report_is_written_whole(tmp_path):
    path = write_report(tmp_path, report([]))
    assert path == tmp_path / "report.html" and list(tmp_path.iterdir()) == [path]
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(DataError, match="cannot be written"):
        write_report(tmp_path / "gone", report([]))


def test_a_plot_draws_its_lines_where_they_are_and_leaves_out_what_lies_beyond():
    plot = Plot("ROC", "x", "y", [Line("model", (0, 0.5, 1), (0.0, 9.0, 1.0)), Line("chance", (0, 1), (0, 1), "ideal")])
    page = render_report(report([PlotSection("Curves", [plot])]))
    (model, chance) = re.findall(r'<polyline class="(\w+)" points="([\d., ]*)"', page)
    assert (model[0], chance[0]) == ("after", "ideal")
    assert model[1] == chance[1] and len(model[1].split()) == 2  # the point at 9 is not drawn
    assert plot.alt == "y over x. model: 0 to 1; chance: 0 to 1."
