"""Sections of reports: headings in any case, in MIMIC's forms, and what stands below none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.domains.medical.reports.sections import BOTH, FINDINGS, HEADINGS, IMPRESSION, sections, text_of

MIMIC = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with new onset ascites  // eval for infection

 COMPARISON:  None.

 FINDINGS:

 There is no focal consolidation.  LUNGS: Clear.  The findings: none
 of them new.

 IMPRESSION:

 No acute cardiopulmonary process.
"""
SPELLED = {FINDINGS: "Findings", IMPRESSION: "CONCLUSION", "indication": "reason for exam", "comparison": "Comparison"}


def read(report: str) -> list[tuple[str, str]]:
    return [(part.name, part.of(report)) for part in sections(report)]


def test_a_report_of_mimic():
    assert read(MIMIC) == [
        ("examination", "CHEST (PA AND LAT)"),
        ("indication", "___F with new onset ascites  // eval for infection"),
        ("comparison", "None."),
        (FINDINGS, "There is no focal consolidation.  LUNGS: Clear.  The findings: none\n of them new."),
        (IMPRESSION, "No acute cardiopulmonary process."),
    ]
    assert text_of(MIMIC, IMPRESSION) == "No acute cardiopulmonary process."


@pytest.mark.parametrize(
    "heading",
    ["FINDINGS AND IMPRESSION:", "Findings/Impression:", "findings and impression\n", "FINDINGS & IMPRESSION :"],
)
def test_one_heading_for_both(heading):
    report = f"HISTORY: Cough.\n{heading} Clear lungs."
    assert read(report)[1:] == [(BOTH, "Clear lungs.")]
    assert text_of(report, FINDINGS) == text_of(report, IMPRESSION) == "Clear lungs."


def test_a_report_in_one_line():
    report = "INDICATION: Fever. COMPARISON: ___ FINDINGS: Small effusion, impression: none. IMPRESSION: Effusion."
    assert [name for name, _ in read(report)] == ["indication", "comparison", FINDINGS, IMPRESSION]


def test_a_paragraph_after_the_indication_has_no_heading():
    report = "AP CHEST\n\nHISTORY:\n\nSepsis.\n\nThe heart is large.\n\nRECOMMENDATION(S): CT.\n\nSoon."
    assert read(report) == [
        ("", "AP CHEST"),
        ("indication", "Sepsis."),
        ("", "The heart is large."),
        ("recommendation", "CT.\n\nSoon."),
    ]
    assert text_of(report, FINDINGS) == ""


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(SPELLED)),
            st.sampled_from([str.upper, str.lower, str.title]),
            st.sampled_from([":", " :", ":\n", "\n"]),
            st.from_regex(r"[a-z]{1,8}( [a-z]{1,8}){0,5}\.", fullmatch=True),
        )
    )
)
def test_what_was_written_below_headings_is_read(parts):
    report = "\n\n".join(f"  {case(SPELLED[name])}{mark} {text}" for name, case, mark, text in parts)
    assert read(report) == [(name, text) for name, _, _, text in parts]


@given(st.lists(st.sampled_from(["\n", " ", ":", "\n\n", ". ", "x", "Findings", "IMPRESSION", "history", "(S)", "\r"])))
def test_sections_follow_each_other_in_any_text(pieces):
    report, end = "".join(pieces), 0
    for part in sections(report):
        assert part.name in (*HEADINGS, "") and end <= part.start < part.end <= len(report)
        assert part.of(report) == part.of(report).strip()
        end = part.end
