"""What sentences of reports state, deny or leave open; tables of findings, ours and those that others make."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import report_findings
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.domains.medical.reports import extraction
from vladapt.domains.medical.reports.curate import SourceForm, curate_findings
from vladapt.domains.medical.reports.extraction import FindingExtractor
from vladapt.domains.medical.reports.reading import read_reports
from vladapt.domains.medical.reports.records import STATES, ReportFinding, read_findings, write_findings
from vladapt.domains.medical.reports.vocabulary import phrases

PRESENT = {"present", "unchanged"}
REPORT = """\
INDICATION: Pneumonia? History of effusion.

FINDINGS: No evidence of
pleural   effusion. The heart may be enlarged.
1. Stable nodule
2. No pneumothorax

IMPRESSION: Resolved edema.
"""


SHARED = FindingExtractor()


def states(text: str, extractor: FindingExtractor = SHARED) -> list[tuple[str, str]]:
    return [(each.finding, each.state) for each in next(extractor.findings([("1", text)]))]


@pytest.mark.parametrize(("part", "most"), [("tuned", 0), ("held_out", 2)])
def test_sentences_are_read_as_written_down(part, most):
    wrong = report_findings.errors(part)
    assert len(wrong) <= most, wrong
    for error in wrong:
        denied = {finding for finding, state in error.read if state == "absent"}
        assert not denied & {finding for finding, state in error.written.items() if state in PRESENT}


def test_sixty_and_sixty_different_sentences():
    parts = [dict(listed) for listed in report_findings.sentences().values()]
    assert [len(part) for part in parts] == [60, 60] and not parts[0].keys() & parts[1].keys()


@pytest.mark.parametrize("each", extraction.TERMSETS["termsets"], ids=lambda each: each["name"])
def test_each_termset_counts(each, monkeypatch):
    others = [other for other in extraction.TERMSETS["termsets"] if other is not each]
    monkeypatch.setitem(extraction.TERMSETS, "termsets", others)
    without = FindingExtractor()
    texts = {
        "resolved": "The effusion has resolved.",
        "not excluded": "Effusion cannot be excluded, and is not seen.",
        "absent": "No effusion.",
        "uncertain": "Possible effusion.",
        "unchanged": "Stable effusion.",
        "changed": "Previous effusion has increased.",
        "historical": "History of effusion.",
    }
    assert states(texts[each["name"]], without) != [("Pleural Effusion", each["state"])]


def test_places_are_those_of_the_report_and_what_was_asked_is_no_finding():
    found = next(SHARED.findings([("7", REPORT)]))
    assert [(each.finding, each.state, REPORT[each.start : each.end]) for each in found] == [
        ("Pleural Effusion", "absent", "pleural   effusion"),
        ("Cardiomegaly", "uncertain", "enlarged"),
        ("Lung Lesion", "unchanged", "nodule"),
        ("Pneumothorax", "absent", "pneumothorax"),
        ("Edema", "resolved", "edema"),
    ]
    assert found[0].sentence == "No evidence of pleural effusion." and {each.study for each in found} == {"7"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No pericardial effusion.", []),
        ("Heart size is not normal.", [("Cardiomegaly", "uncertain")]),
        ("No effusion with mild edema.", [("Pleural Effusion", "absent"), ("Edema", "present")]),
        ("No effusion, stable cardiomegaly.", [("Pleural Effusion", "absent"), ("Cardiomegaly", "unchanged")]),
        ("The nodule was not seen on the prior study.", [("Lung Lesion", "present")]),
        ("There is no doubt that a pneumothorax is present.", [("Pneumothorax", "present")]),
    ],
)
def test_what_is_easily_mistaken(text, expected):
    assert states(text) == expected


WORDS = [
    "no",
    "effusion",
    "stable",
    "heart",
    "enlarged",
    "may",
    "\n",
    "\n\n",
    ".",
    ";",
    "FINDINGS:",
    "\u2028",
    "- ",
    "é",
]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_has_findings_in_its_order(text):
    found = next(SHARED.findings([("1", text)]))
    assert [each.start for each in found] == sorted(each.start for each in found)
    for each in found:
        assert text[each.start : each.end] in ("effusion", "enlarged") and each.state in STATES
        assert each.sentence == " ".join(each.sentence.split())


def test_a_vocabulary_of_ones_own(tmp_path):
    (tmp_path / "more.json").write_text('{"Hernia": ["hernia"], "Edema": {"normal": ["dry lungs"]}}')
    report = "Small hernia, dry lungs."
    more = FindingExtractor(phrases(tmp_path / "more.json"))
    assert states(report, more) == [("Hernia", "present"), ("Edema", "absent")]
    assert states(report) == []
    (tmp_path / "more.json").write_text('{"Hernia": ["... hernia"]}')
    with pytest.raises(DataError, match=r"more.json: 'Hernia': '... hernia' is no phrase"):
        phrases(tmp_path / "more.json")


FINDINGS = st.builds(
    ReportFinding,
    study=st.from_regex(r"[=a-z0-9]{1,6}", fullmatch=True),
    finding=st.sampled_from(["Edema", 'a, "b"']),
    state=st.sampled_from(STATES),
    start=st.none() | st.integers(0, 99),
    end=st.none() | st.integers(0, 99),
    sentence=st.from_regex(r"[-=+a-z,;\"']{0,9}", fullmatch=True),
)


@given(st.lists(FINDINGS, min_size=1, max_size=4))
def test_a_table_is_read_as_it_was_written(tmp_path_factory, findings):
    path = tmp_path_factory.mktemp("table") / "findings.csv"
    counts = write_findings(path, findings)
    assert list(read_findings(path)) == findings and sum(counts.values()) == len(findings)


def test_what_is_no_table_of_findings_is_refused(tmp_path):
    path = tmp_path / "f.csv"
    for text, said in [
        ("study,finding\n1,Edema\n", "not a table of findings, it lacks state"),
        ("study,finding,state\n1,Edema,gone\n", "line 2: state 'gone'; there are present"),
        ("study,finding,state,start\n1,Edema,present,-1\n", "give whole numbers, or nothing"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            list(read_findings(path))


def mimic(folder: Path, **reports: str) -> Path:
    for study, text in reports.items():
        (folder / "files/p10/p10000032").mkdir(parents=True, exist_ok=True)
        (folder / f"files/p10/p10000032/{study}.txt").write_text(text)
    return folder


def test_reports_of_a_folder_become_one_table_without_another_identifier(tmp_path):
    source = mimic(tmp_path / "set", s50414267=REPORT, s50414268="Nothing.")
    made = curate_findings(source, tmp_path / "out.csv")
    assert (made.source, made.studies, made.silent, made.with_text) == ("reports", 1, 1, True)
    assert made.findings == {**dict.fromkeys(STATES, 1), "absent": 2, "present": 0, "historical": 0}
    rows = list(read_findings(made.out))
    assert [each.study for each in rows] == ["50414267"] * 5 and rows[4].sentence == "Resolved edema."
    assert "p10000032" not in made.out.read_text() and {p.name for p in tmp_path.iterdir()} == {"set", "out.csv"}
    without = curate_findings(source, tmp_path / "out.csv", SourceForm(without_text=True))
    assert [(each.start, each.sentence) for each in read_findings(without.out)] == [(each.start, "") for each in rows]


def test_a_column_of_a_table(tmp_path):
    (tmp_path / "r.csv").write_text("exam,note,study_id\n1,No effusion.,8\n2,Effusion.,9\n")
    form = SourceForm(text_column="note")
    rows = list(read_findings(curate_findings(tmp_path / "r.csv", tmp_path / "o.csv", form).out))
    assert [(each.study, each.state) for each in rows] == [("8", "absent"), ("9", "present")]
    assert read_reports(tmp_path / "r.csv", "note", "exam").of("2") == "Effusion."


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("study,report\n1,a\n,b\n", "line 3: a report without a study; fill in column 'study'"),
        ("study,report\n1,a\n1,b\n", "line 3: a second report of its study"),
        ("report\na\n", "no column names the study of a report; it has report: name one by --study-column"),
        ("study,x\n1,a\n", "no column holds the texts; it has study, x: name one by --text-column"),
    ],
)
def test_reports_that_cannot_be_told_apart_are_refused(tmp_path, table, said):
    (tmp_path / "r.csv").write_text(table)
    with pytest.raises(DataError, match=said):
        read_reports(tmp_path / "r.csv")


def test_a_folder_without_reports_or_with_two_of_a_study_is_refused(tmp_path):
    with pytest.raises(DataError, match="no report there; give a folder"):
        read_reports(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "s123.txt").write_text("x")
    with pytest.raises(DataError, match="a second report of its study"):
        read_reports(tmp_path)


NAMES = "Edema,Fracture,Cardiomegaly,Lung Opacity,Lung Lesion,Pneumonia,Atelectasis,Pneumothorax"
CHEXPERT = f"study_id,Report Impression,{NAMES}\n"


def test_a_table_of_chexbert(tmp_path):
    (tmp_path / "c.csv").write_text(f"{CHEXPERT}8,text,1.0,0.0,-1.0,,,,,\n")
    made = curate_findings(tmp_path / "c.csv", tmp_path / "o.csv")
    assert made.source == "CheXbert" and [(each.finding, each.state) for each in read_findings(made.out)] == [
        ("Edema", "present"),
        ("Fracture", "absent"),
        ("Cardiomegaly", "uncertain"),
    ]
    (tmp_path / "c.csv").write_text(f"{CHEXPERT}8,text,7,,,,,,,\n")
    with pytest.raises(DataError, match="line 2: 'Edema' is '7'; CheXbert writes 1, 0, -1 or nothing"):
        curate_findings(tmp_path / "c.csv", tmp_path / "o.csv")


def entity(tokens: str, label: str, start: int, *relations: tuple[str, str], end: int | None = None) -> dict:
    end = start if end is None else end
    return {
        "tokens": tokens,
        "label": label,
        "start_ix": start,
        "end_ix": end,
        "relations": [list(r) for r in relations],
    }


def test_json_of_radgraph(tmp_path):
    text = "Small left Effusion . No air - leak or edema ."
    entities = {
        "1": entity("Small", "OBS-DP", 0, ("modify", "3")),
        "2": entity("left", "ANAT-DP", 1),
        "3": entity("Effusion", "OBS-DP", 2, ("located_at", "2")),
        "4": entity("air - leak", "OBS-DA", 5, end=7),
        "5": entity("edema", "Observation::uncertain", 9),
    }
    (tmp_path / "r.json").write_text(json.dumps({"p1/s8.txt": {"text": text, "entities": entities}}))
    made = curate_findings(tmp_path / "r.json", tmp_path / "o.csv")
    assert made.source == "RadGraph" and list(read_findings(made.out)) == [
        ReportFinding("8", "Pleural Effusion", "present", 11, 19, "left", "Small left Effusion ."),
        ReportFinding("8", "air - leak", "absent", 25, 35, "", "No air - leak or edema ."),
        ReportFinding("8", "Edema", "uncertain", 39, 44, "", "No air - leak or edema ."),
    ]
    del entities["1"]["relations"]
    (tmp_path / "r.json").write_text(json.dumps({"p1/s8.txt": {"text": text, "entities": entities}}))
    with pytest.raises(DataError, match="an entry has another form than RadGraph's"):
        curate_findings(tmp_path / "r.json", tmp_path / "o.csv")


def test_json_and_array_of_medklip(tmp_path):
    labels = np.full((2, 3, 2), -1)
    labels[0, 1, 0], labels[1, 0, 1], labels[1, 2, 0] = 1, 0, 2
    np.save(tmp_path / "l.npy", labels)
    (tmp_path / "e.json").write_text('{"effusion": "fluid", "edema": "water"}')
    views = {"p1/s8/a.jpg": {"labels_id": 0}, "p1/s8/b.jpg": {"labels_id": 0}, "p1/s9/c.jpg": {"labels_id": 1}}
    (tmp_path / "m.json").write_text(json.dumps(views))
    form = SourceForm(array=str(tmp_path / "l.npy"), entities=str(tmp_path / "e.json"))
    made = curate_findings(tmp_path / "m.json", tmp_path / "o.csv", form)
    assert made.source == "MedKLIP" and list(read_findings(made.out)) == [
        ReportFinding("8", "effusion", "present", position="1"),
        ReportFinding("9", "edema", "absent", position="0"),
        ReportFinding("9", "effusion", "uncertain", position="2"),
    ]
    np.save(tmp_path / "l.npy", labels[:1])
    with pytest.raises(DataError, match=r"labels_id 1 of an image is no row of l.npy, which has 1"):
        curate_findings(tmp_path / "m.json", tmp_path / "o.csv", form)
    np.save(tmp_path / "l.npy", labels[..., :1])
    with pytest.raises(DataError, match=r"its shape is \(2, 3, 1\); e.json asks for \(reports, positions, 2\)"):
        curate_findings(tmp_path / "m.json", tmp_path / "o.csv", form)
    with pytest.raises(ConfigError, match="need --array FILE"):
        curate_findings(tmp_path / "m.json", tmp_path / "o.csv")


def test_an_option_without_effect_is_refused(tmp_path):
    (tmp_path / "r.csv").write_text("study,report\n1,Effusion.\n")
    with pytest.raises(ConfigError, match="--entities x: has no effect on reports"):
        curate_findings(tmp_path / "r.csv", tmp_path / "o.csv", SourceForm(entities="x"))
    with pytest.raises(ConfigError, match=r"--out o.json: the table of findings is a .csv"):
        curate_findings(tmp_path / "r.csv", "o.json")


def test_the_command_says_where_sentences_stand(tmp_path, capsys, monkeypatch):
    from vladapt.cli import main

    monkeypatch.chdir(tmp_path)
    mimic(tmp_path, s8="FINDINGS: Effusion.")
    for further, said in [
        ([], "The table holds sentences of the reports: keep it as you keep the reports. No other file was written."),
        (["--without-text"], "The table holds no sentence of a report."),
    ]:
        with pytest.raises(SystemExit) as ended:
            main(["curate", "findings", "files", "--out", "f.csv", *further])
        printed = capsys.readouterr()
        assert ended.value.code == 0 and said in printed.out and "States:   present 1\n" in printed.out
        assert "Effusion" not in printed.out + printed.err and "p10000032" not in printed.out + printed.err


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(extraction, "find_spec", {"spacy": 1}.get)
    with pytest.raises(CapabilityError, match="needs the package 'negspacy'; install it with: pip install"):
        FindingExtractor()
