"""Columns, folders and file names that say who an image is of, and those that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vladapt.core.data.group_words import is_split_word, kind_of_column, says_subject

PATIENTS = (
    *("RID", "NHS_number", "HospitalNumber", "Hospital No.", "Patientennummer", "Patienten-ID", "Patient_Index"),
    *("code_patient", "CodePatient", "PATNO", "EID", "numéro patient", "Identifiant_Patient", "id_paciente"),
    *(
        "Código Paciente",
        "ID Paziente",
        "pasient_nr",
        "pacient_id",
        "Pacjent",
        "Patiënt-ID",
        "患者ID",
        "患者番号",
        "환자 번호",
    ),
    *("病人编号", "пациент", "hasta_no", "PatientKey", "anon_patient_id", "MRN", "pid"),
)
SUBJECTS = (
    *("USUBJID", "sub_id", "SUBJID", "subject_idx", "Proband", "Probanden-Nr", "Versuchsperson", "Fallnummer", "sujet"),
    *("ID_sujeto", "soggetto", "participante", "deelnemer_id", "CaseIndex", "被试编号", "participant_id", "Person"),
)
OTHERS = (
    *(
        "hospital",
        "hospital_id",
        "Hospital Name",
        "site",
        "scanner",
        "row_id",
        "index",
        "idx",
        "id",
        "ID",
        "code",
        "nr",
    ),
    *("patient_age", "PatientSex", "patient weight", "n_patients", "num_patients", "number of patients"),
    *("inpatient",),
    *("subset", "subtype", "subclass", "substance", "study_date", "StudyTime", "series_description", "exam_type"),
    *("grid", "paid", "valid", "covid", "hybrid", "rapid", "fluid", "fall", "pattern", "path", "opt", "personality"),
    *("staircase", "showcase", "caseload", "identity_card_type", "slide_thickness", "groupwise", "numero", "nummer"),
    *("Alter", "Geschlecht", "edad", "sexe", "年齢", "性别", "label", "split", "fold", "filename", "caption"),
)


@pytest.mark.parametrize("name", PATIENTS)
def test_a_patient_in_several_languages(name):
    assert kind_of_column(name) == "patient"


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_in_several_languages(name):
    assert kind_of_column(name) == "subject"


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_person(name):
    assert kind_of_column(name) is None


@given(st.sampled_from(PATIENTS + SUBJECTS), st.sampled_from(("", "_", "-", " ", ".")), st.booleans())
def test_case_and_separators_have_no_effect(name, between, upper):
    written = between.join(name.replace("_", "").replace("-", "").split())
    assert kind_of_column(written.upper() if upper else written.lower()) == kind_of_column(name)


@pytest.mark.parametrize("word", ["pat001", "Patient-12", "person12", "P-003", "p3", "case 7", "sub-01", "Proband_4"])
def test_a_word_and_a_number_of_a_subject(word):
    assert says_subject(word)


@pytest.mark.parametrize(
    "word", ["img0", "patient", "12", "visit2", "scan3", "type_4", "group1", "site2", "pat001x", ""]
)
def test_a_word_of_something_else(word):
    assert not says_subject(word)


def test_words_of_splits():
    assert all(map(is_split_word, ("train", "VAL", "test", "fold_3", "fold10", "cv2", "split-1", "holdout")))
    assert not any(map(is_split_word, ("trainer", "testicle", "folder", "pat1", "", "valley")))
