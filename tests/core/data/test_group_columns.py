"""Groups: the usual names of columns are known, the right one is taken, and the user is told which."""

import pytest
from PIL import Image

from vladapt.core.data.detect import read_any
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.group_columns import group_rows
from vladapt.core.data.group_words import kind_of_column, preferred_column
from vladapt.core.data.manifests import read_manifest
from vladapt.core.data.splits import assign_splits
from vladapt.core.data.tables import Row, Table
from vladapt.core.errors import ConfigError, DataError, UnknownNameError

COUNT = 24


def table_of(tmp_path, **columns):
    names = tuple(columns)
    rows = [Row(dict(zip(names, values)), f"row {n}") for n, values in enumerate(zip(*columns.values()), 1)]
    return Table(tmp_path / "labels.csv", names, rows)


def grouped(tmp_path, named="auto", labels=None, **columns):
    table = table_of(tmp_path, **columns)
    count = len(table.rows)
    labels = [n % 2 for n in range(count)] if labels is None else labels
    classes = [label if isinstance(label, tuple) else (label,) for label in labels]
    return group_rows(table, [f"{n}.png" for n in range(count)], classes, named=named)


def thirds(prefix, per=2):
    return [f"{prefix}{n // per}" for n in range(COUNT)]


def test_of_several_names_the_first_of_the_most_preferred_kind_is_taken():
    assert preferred_column(("scan_id", "case", "patient_id", "pid", "age")) == "patient_id"
    assert preferred_column(("slide", "person", "group")) == "group"
    assert preferred_column(("age", "sex")) is None


@pytest.mark.parametrize(
    "name, kind",
    [
        *((n, "patient") for n in ("mrn", "MRN", "PatientID", "patient-id", "Patient Id", "patientid", "pid")),
        *((n, "patient") for n in ("medical_record_number", "Patient_Name", "anon_patient_id", "PatientNo.")),
        *((n, "subject") for n in ("subject", "Subject_ID", "participant_id", "PersonID", "case", "CASE NUMBER")),
        *((n, "study") for n in ("study_id", "StudyInstanceUID", "exam", "AccessionNumber", "accession", "lesion_id")),
        *((n, None) for n in ("patient_age", "Patient Sex", "PatientPosition", "id", "image_id", "name", "caseload")),
        *((n, None) for n in ("no", "number", "", "page", "examiner")),
    ],
)  # fmt: skip
def test_usual_names_in_any_case_and_with_any_separators(name, kind):
    assert kind_of_column(name) == kind


@pytest.mark.parametrize("name", ["mrn", "Subject-ID", "AccessionNumber"])
def test_the_column_is_found_and_named(tmp_path, name):
    grouping = grouped(tmp_path, **{"other": ["x"] * COUNT, name: thirds("p")})
    assert grouping.column == name and len(set(grouping.groups)) == COUNT // 2
    assert grouping.notes == (
        f"Images are grouped by column '{name}': 12 groups, none of them divided between splits.",
    )
    assert "p3" not in repr(grouping)


def test_patients_are_preferred_to_subjects_and_these_to_studies(tmp_path):
    columns = {"study": thirds("s", 2), "case": thirds("c", 3), "mrn": thirds("m", 4)}
    assert grouped(tmp_path, **columns).column == "mrn"
    del columns["mrn"]
    assert grouped(tmp_path, **columns).column == "case"


def test_the_coarsest_that_holds_the_others_wins(tmp_path):
    assert grouped(tmp_path, series=thirds("s", 2), study=thirds("x", 4)).column == "study"
    assert grouped(tmp_path, patient_id=thirds("p", 2), mrn=thirds("m", 6)).column == "mrn"
    wider = grouped(tmp_path, patient_id=thirds("p", 2), participant=thirds("f", 6))
    assert wider.column == "participant" and len(wider.notes) == 1


def test_a_column_that_groups_otherwise_is_told(tmp_path):
    crossing = [f"s{n % 5}" for n in range(COUNT)]
    grouping = grouped(tmp_path, mrn=thirds("m", 4), study=crossing, exam=thirds("e", 2))
    assert grouping.column == "mrn"
    assert len(grouping.notes) == 2 and grouping.notes[1].startswith("Warning: column 'study' (5 groups) would group")
    assert "--group-column study" in grouping.notes[1]


@pytest.mark.parametrize(
    "values, reason",
    [
        (["left", "right"] * 12, "2 values"),
        ([f"p{n}" for n in range(COUNT)], "no value twice"),
        (["", "nan", "Unknown"] * 8, "0 values"),
    ],
)
def test_what_does_not_count_is_told(tmp_path, values, reason):
    grouping = grouped(tmp_path, patient=values)
    assert grouping.column is None and set(grouping.groups) == {None}
    assert f"(patient: {reason})" in grouping.notes[0] and "--group-column" in grouping.notes[0]


def test_a_column_that_names_the_classes_is_not_taken(tmp_path):
    values = [f"person {n % 4}" for n in range(COUNT)]
    assert grouped(tmp_path, person=values, labels=[n % 4 for n in range(COUNT)]).column is None
    assert grouped(tmp_path, person=values, labels=[n % 3 for n in range(COUNT)]).column == "person"


def test_a_patient_may_have_labels_together_that_no_other_has(tmp_path):
    pairs = [(n // 4, (n // 4 + 1) % 6) for n in range(COUNT)]
    assert grouped(tmp_path, mrn=thirds("p", 4), labels=pairs).column == "mrn"


def test_repeated_rows_of_one_image_are_no_repeats(tmp_path):
    table = table_of(tmp_path, patient=thirds("p", 2))
    grouping = group_rows(table, [f"{n // 2}.png" for n in range(COUNT)], [(n % 2,) for n in range(COUNT)])
    assert grouping.column is None


def test_rows_without_a_value_stand_alone(tmp_path):
    grouping = grouped(tmp_path, mrn=["", None, "NaN", *thirds("p")[3:]])
    assert grouping.groups[:3] == [None] * 3 and "each a group of its own: 3" in grouping.notes[1]


def test_numbers_are_one_patient_whether_whole_or_not(tmp_path):
    assert (
        len(set(grouped(tmp_path, mrn=[*(float(n // 4) for n in range(12)), *(n // 4 for n in range(12))]).groups)) == 3
    )


def test_the_user_names_a_column_or_none(tmp_path):
    columns = {"mrn": thirds("m"), "Site": ["a", "b"] * 12}
    assert grouped(tmp_path, named="site", **columns).column == "Site"
    assert grouped(tmp_path, named="none", **columns).column is None
    with pytest.raises(UnknownNameError, match=r"--group-column ward: .*has no such column; it has: mrn, Site"):
        grouped(tmp_path, named="ward", **columns)


@pytest.fixture
def scans(tmp_path):
    """24 images of 8 patients in two classes, 3 of each patient."""
    for n in range(COUNT):
        file = tmp_path / ("sick" if n % 2 else "well") / f"scan_{n:02}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), n * 9).save(file)
    return tmp_path


def lines(scans, first="image,label,mrn"):
    names = sorted(scans.glob("*/*.png"), key=lambda file: file.name)
    return first + "\n" + "".join(f"{f.parent.name}/{f.name},{f.parent.name},M{n // 3}\n" for n, f in enumerate(names))


def sides_of_patients(data, tmp_path):
    divided = assign_splits(data, seed=0, hashes=FileHashes(tmp_path / "cache"))
    sides = {}
    for item in divided.items:
        sides.setdefault(int(item.source.stem[-2:]) // 3, set()).add(item.split)
    return sides.values()


def test_no_patient_of_a_column_mrn_is_on_two_sides(scans):
    (scans / "list.csv").write_text(lines(scans))
    data = read_manifest(scans / "list.csv")
    assert all(len(sides) == 1 for sides in sides_of_patients(data, scans))
    alone = read_manifest(scans / "list.csv", group_column="none")
    assert any(len(sides) > 1 for sides in sides_of_patients(alone, scans)) and "--group-column none" in alone.notes[0]


def test_a_table_beside_class_folders_tells_groups(scans):
    rows = "".join(f"scan_{n:02},P{n // 3},{40 + n}\n" for n in range(COUNT))
    (scans / "metadata.csv").write_text("picture,Patient ID,age\n" + rows)
    data = read_any(scans)
    assert data.class_names == ("sick", "well") and len({item.group for item in data.items}) == 8
    assert data.notes == [
        "Images are grouped by metadata.csv, column 'Patient ID': 8 groups, none of them divided between splits."
    ]
    assert {item.group for item in read_any(scans, group_column="none").items} == {None}
    with pytest.raises(UnknownNameError, match=r"metadata.csv has picture, Patient ID, age"):
        read_any(scans, group_column="ward")


def test_a_table_about_other_files_beside_class_folders_is_passed_over(scans):
    (scans / "notes.csv").write_text("image,mrn\n" + "".join(f"other_{n}.png,P{n // 3}\n" for n in range(COUNT)))
    data = read_any(scans)
    assert {item.group for item in data.items} == {None} and not data.notes


def test_the_label_column_is_named_by_the_user(scans):
    (scans / "list.csv").write_text(lines(scans, "image,Diagnosis,mrn"))
    with pytest.raises(DataError, match=r"no label column.*--label-column"):
        read_any(scans / "list.csv")
    assert read_any(scans / "list.csv", label_column="diagnosis").class_names == ("sick", "well")
    with pytest.raises(UnknownNameError, match=r"--label-column finding: .*it has: image, Diagnosis, mrn"):
        read_any(scans / "list.csv", label_column="finding")
    with pytest.raises(ConfigError, match=r"'label_column' does not apply to class folders"):
        (scans / "list.csv").unlink()
        read_any(scans, label_column="diagnosis")


def test_several_label_columns(scans):
    names = [f"{file.parent.name}/{file.name}" for file in sorted(scans.glob("*/*.png"))]

    def read(header, cells):
        (scans / "list.csv").write_text(header + "".join(f"\n{name},{cells(n)}" for n, name in enumerate(names)))
        return read_any(scans / "list.csv")

    with pytest.raises(DataError, match=r"'class' and 'category' could both be the label.*--label-column"):
        read("image,category,class", lambda n: f"c{n % 3},k{n % 4}")
    assert read("image,class,class_name", lambda n: f"{n % 3},kind {n % 3}").class_names == ("0", "1", "2")
    data = read("image,label,category", lambda n: f"l{n % 4},c{n % 3}")
    assert len(data.class_names) == 4 and data.notes[0].startswith(
        "Labels are those of column 'label'; 'category' would"
    )
