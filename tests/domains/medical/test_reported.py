"""Images with their reports: where reports are looked for, what of them is learned, what tables of findings add."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vladapt import DataError, UnknownNameError
from vladapt.core.data import csv_text
from vladapt.domains.medical.domain import Medical
from vladapt.domains.medical.reports.records import ReportFinding, write_findings

CLEAR = "INDICATION: cough\n\nFINDINGS: The lungs are clear.\n\nIMPRESSION: No acute disease."
WET = "FINDINGS: Left effusion.\n\nIMPRESSION: Effusion.\n\nRECOMMENDATION: Follow up."


def _image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)


def _table(folder: Path, columns: tuple[str, ...], *rows: tuple) -> Path:
    for number, row in enumerate(rows):
        _image(folder / row[0], 40 * number)
    path = folder / "table.csv"
    path.write_text(csv_text(columns, rows))
    return path


@pytest.fixture
def studies(tmp_path) -> Path:
    """A table of three images, a report in its row, one of them empty."""
    rows = ("a.png", "s1", WET, "p1"), ("b.png", "s2", CLEAR, "p1"), ("c.png", "s3", "", "p3")
    return _table(tmp_path, ("image", "study_id", "report", "patient_id"), *rows)


def _texts(path: Path, **options) -> dict[str, tuple[str, ...]]:
    return {item.id: item.captions() for item in Medical().read(path, "retrieval", **options).items}


def test_a_column_of_reports_gives_what_is_of_the_image(studies):
    data = Medical().read(studies, "retrieval", group_column="patient_id")
    texts = {item.id: item.captions() for item in data.items}
    assert texts == {
        "a.png": ("Left effusion.\n\nEffusion.",),
        "b.png": ("The lungs are clear.\n\nNo acute disease.",),
    }
    first, second = (item.group for item in data.items)
    assert first == second != "p1" and first is not None
    assert "Samples without a report, left out: 1." in data.notes
    assert any("column 'report'" in note and "learned of each: seen" in note for note in data.notes)


@pytest.mark.parametrize(
    ("part", "text"),
    [("findings", "Left effusion."), ("impression", "Effusion."), ("whole", WET)],
)
def test_a_part_of_the_report_is_chosen(studies, part, text):
    assert _texts(studies, report_part=part)["a.png"] == (text,)


def test_reports_lie_in_a_folder_by_study(studies, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "s2.txt").write_text("IMPRESSION: Of the folder.")
    (tmp_path / "texts" / "s9.txt").write_text("IMPRESSION: Of an image elsewhere.")
    data = Medical().read(studies, "retrieval", reports=str(tmp_path / "texts"))
    assert {item.id: item.captions() for item in data.items} == {"b.png": ("Of the folder.",)}
    assert data.notes[-2:] == ["Samples without a report, left out: 2.", "Reports without a sample, left out: 1."]


def test_reports_lie_in_another_table(studies, tmp_path):
    other = tmp_path / "elsewhere" / "texts.csv"
    other.parent.mkdir()
    other.write_text(csv_text(("study_id", "text"), (("s3", "Impression: Third."),)))
    assert _texts(studies, reports=str(other)) == {"c.png": ("Third.",)}


def test_plain_folders_as_mimic_has_them(tmp_path):
    for patient, study in (("10000032", "1"), ("10000032", "2"), ("10000764", "3")):
        folder = tmp_path / "files" / "p10" / f"p{patient}"
        _image(folder / f"s{study}" / "frontal.png", 10)
        _image(folder / f"s{study}" / "lateral.png", 20)
        (folder / f"s{study}.txt").write_text(f"IMPRESSION: Of study {study}.")
    data = Medical().read(tmp_path, "retrieval")
    assert len(data.items) == 6 and len({item.group for item in data.items}) == 2
    assert {item.captions()[0] for item in data.items} == {f"Of study {study}." for study in "123"}
    assert all("10000032" not in str(item.group) for item in data.items)


def test_views_of_a_study_share_its_report(tmp_path):
    rows = ("a.png", "1", WET, "lateral"), ("b.png", "1", WET, "frontal"), ("c.png", "2", CLEAR, "frontal")
    path = _table(tmp_path, ("image", "study_id", "report", "view"), *rows)
    data = Medical().read(path, "retrieval", unit="study")
    assert [item.id for item in data.items] == ["b.png", "c.png"]
    assert data.items[0].target.view == "frontal, lateral" and data.items[0].captions() == (
        "Left effusion.\n\nEffusion.",
    )


def test_labels_stay_and_are_findings(tmp_path):
    rows = ("a.png", WET, "1", ""), ("b.png", CLEAR, "0", "1"), ("c.png", CLEAR, "1", "0")
    path = _table(tmp_path, ("image", "report", "Effusion", "Edema"), *rows)
    data = Medical().read(path, "retrieval")
    first, second, _ = (item.target for item in data.items)
    assert data.class_names == ("Effusion", "Edema") and second.class_label() == (0.0, 1.0)
    assert first.numbers()["findings"][0] == 1.0 and math.isnan(first.numbers()["findings"][1])
    assert second.numbers()["findings"] == (-1.0, 1.0)
    kept = second.restricted({1: 0})
    assert kept.class_label() == (1.0,) and kept.captions() == second.captions()


@pytest.fixture
def findings(tmp_path) -> Path:
    path = tmp_path / "of_reports" / "findings.csv"
    path.parent.mkdir()
    left, right = "left", "right"
    write_findings(
        path,
        [
            ReportFinding("s1", "effusion", "present", position=left),
            ReportFinding("s1", "edema", "uncertain"),
            ReportFinding("s1", "nodule", "historical"),
            ReportFinding("s2", "effusion", "absent"),
            ReportFinding("s2", "edema", "unchanged", position=right),
            ReportFinding("s2", "edema", "absent", position=left),
        ],
    )
    return path


def test_a_table_of_findings_is_joined_by_study(studies, findings):
    data = Medical().read(studies, "retrieval", findings=str(findings))
    assert data.class_names == ("edema", "effusion")
    first, second = (item.target.numbers() for item in data.items)
    assert first["findings"] == (0.0, 1.0) and second["findings"] == (1.0, -1.0)
    unknown = math.nan
    expected = [unknown, unknown, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0]  # finding by finding, (left, right)
    for numbers, relations in zip((first, second), expected, strict=True):
        np.testing.assert_equal(numbers["relations"], relations)
    assert any("Findings: 2 at 2 positions" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reports": "nowhere.csv"}, DataError, r"nowhere\.csv: cannot be read"),
        ({"reports": "no/where"}, DataError, "no/where: no such file or folder; check --reports"),
        ({"reports": "reprt"}, UnknownNameError, "did you mean report"),
        ({"reports": "patient_id", "report_part": "impression"}, DataError, "none of the 3 samples has a report"),
    ],
)
def test_bad_reports_are_told_in_a_line(studies, options, error, message):
    with pytest.raises(error, match=message):
        Medical().read(studies, "retrieval", **options)


def test_findings_of_other_studies_are_refused(studies, tmp_path):
    path = tmp_path / "others.csv"
    write_findings(path, [ReportFinding("s9", "effusion", "present")])
    with pytest.raises(DataError, match=r"others\.csv: of none of the 2 studies"):
        Medical().read(studies, "retrieval", findings=str(path))


def test_no_reports_at_all(tmp_path):
    _image(tmp_path / "a.png", 3)
    with pytest.raises(DataError, match=r"no reports .*by --reports"):
        Medical().read(tmp_path, "retrieval")


def test_options_of_reports_have_no_use_for_classes(tmp_path):
    _image(tmp_path / "one" / "a.png", 3)
    _image(tmp_path / "two" / "b.png", 9)
    data = Medical().read(tmp_path, "classification", report_part="impression")
    assert any(note.startswith("Option report_part has no effect here") for note in data.notes)


def test_a_study_is_found_with_or_without_the_letter_that_mimic_writes(studies, tmp_path):
    path = tmp_path / "numbers.csv"
    write_findings(path, [ReportFinding("1", "effusion", "present"), ReportFinding("s2", "effusion", "absent")])
    items = Medical().read(studies, "retrieval", findings=str(path)).items
    assert [item.target.numbers()["findings"] for item in items] == [(1.0,), (-1.0,)]


def test_a_table_of_mentions_is_joined_by_study(studies, tmp_path):
    """Entities are numbered as the table names them; what a study mentions twice counts once."""
    path = tmp_path / "mentions.csv"
    rows = (
        ("s2", "C7", "clear lungs"),
        ("1", "C3", "effusion"),
        ("1", "C3", "effusions"),
        ("1", "C7", ""),
        ("s9", "C1", "x"),
    )
    path.write_text(csv_text(("study", "entity", "text"), rows))
    data = Medical().read(studies, "retrieval", entities=str(path))
    assert data.number_names["entities"] == ("C7", "C3", "C1")
    assert [item.target.numbers()["entities"] for item in data.items] == [(1.0, 1.0, 0.0), (1.0, 0.0, 0.0)]
    assert "Entities: 3, of mentions.csv; samples of which it says nothing: 0." in data.notes


def test_mentions_stay_beside_findings_and_of_studies(studies, findings, tmp_path):
    path = tmp_path / "mentions.csv"
    path.write_text("study,entity\ns1,C1\n")
    first, second = Medical().read(studies, "retrieval", entities=str(path), findings=str(findings)).items
    assert first.target.numbers()["findings"] == (0.0, 1.0) and first.target.numbers()["entities"] == (1.0,)
    assert second.target.numbers()["entities"] == (0.0,)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("study,entity\ns9,C1\n", "of none of the 2 studies"),
        ("entity,text\nC1,edema\n", "of none of the 2 studies; give a column study"),
        ("study,text\ns1,edema\n", "lacks the column entity"),
    ],
)
def test_bad_tables_of_mentions_are_told_in_a_line(studies, tmp_path, content, why):
    path = tmp_path / "mentions.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=why):
        Medical().read(studies, "retrieval", entities=str(path))
