"""Words that say who an image is of: names of columns, of folders and parts of file names, in several languages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

KINDS = {
    "patient": (
        *("patient", "patients", "pat", "pt", "pid", "ptid", "mrn", "empi", "eid", "rid", "nhs", "medicalrecord"),
        *("hospitalnumber", "hospitalno", "hospitalnr", "patienten", "patiente", "paciente", "pacientes", "paziente"),
        *("pasient", "pacient", "pacjent", "potilas", "hastano", "hastaid", "患者", "病人", "환자", "пациент"),
    ),
    "group": ("group", "groups"),
    "subject": (
        *("subject", "subjects", "subj", "usubj", "subid", "subno", "participant", "participants", "person", "persons"),
        *("individual", "case", "cases", "donor", "volunteer", "animal", "identity", "proband", "probanden"),
        *("versuchsperson", "fallnummer", "fallid", "fallnr", "personne", "persona", "sujet", "sujeto", "soggetto"),
        *("participante", "partecipante", "deelnemer", "被试", "受试者", "被験者"),
    ),
    "study": (
        *("study", "studies", "exam", "examination", "accession", "series", "visit", "encounter", "session", "scan"),
        *("admission", "hadm", "acquisition", "procedure", "lesion", "slide", "specimen", "biopsy", "video", "volume"),
    ),
}
"""Kind -> names without their endings; a kind is preferred to those after it. Accents are left out."""
ENDINGS = (
    *("identifier", "anonymized", "anonymised", "anon", "instance", "number", "name", "code", "hash", "uuid", "uid"),
    *("key", "num", "no", "nr", "id", "index", "idx", "nummer", "kennung", "numero", "nro", "codigo", "codice"),
    *("identifiant", "identificador", "编号", "番号", "번호"),
)
BEGINNINGS = (
    *("anonymized", "anonymised", "anon", "deidentified", "deid", "pseudo", "code", "codigo", "codice", "numero"),
    *("identifiant", "identificador", "id"),
)
UNITS = ("p", "sub", "lesion", "slide", "specimen", "biopsy", "video", "volume")
"""Words before a number, besides those of patients and subjects, that say what images are of; a visit or a scan has the
same number in several patients."""
SPLIT_WORDS = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|eval|holdout|fold|split|subset|cv)[\W_]*\d*", re.IGNORECASE
)
SUBJECT_AND_NUMBER = re.compile(r"([^\W\d_]+)[\W_]*(\d+)")


def kind_of_column(name: str) -> str | None:
    """ "patient", "group", "subject" or "study" for a column of a usual name, in any case and with any separators."""
    name = plain_word(name)
    while name:
        for kind, names in KINDS.items():
            if name in names:
                return kind
        shorter = next((name.removesuffix(end) for end in ENDINGS if name.endswith(end)), name)
        if shorter == name:
            shorter = next((name.removeprefix(start) for start in BEGINNINGS if name.startswith(start)), name)
        if shorter == name:
            return None
        name = shorter
    return None


def preferred_column(names: Iterable[str]) -> str | None:
    """Of some names the first of the most preferred kind; None where none is usual for groups."""
    order = list(KINDS)
    usual = [(order.index(kind), place, name) for place, name in enumerate(names) if (kind := kind_of_column(name))]
    return min(usual)[2] if usual else None


def plain_word(name: str) -> str:
    """In lower case, letters and digits alone, without accents: "numeropatient" for "Numéro patient"."""
    letters = unicodedata.normalize("NFKD", str(name).casefold())
    return unicodedata.normalize("NFC", "".join(sign for sign in letters if sign.isalnum()))


def says_subject(word: str) -> bool:
    """Whether a word and a number are called as a subject: "pat001", "person-12", "P-003", "case 7"."""
    match = SUBJECT_AND_NUMBER.fullmatch(word)
    return match is not None and _is_subject(match[1])


@lru_cache(1024)
def _is_subject(word: str) -> bool:
    return plain_word(word) in UNITS or kind_of_column(word) in ("patient", "subject")


def is_split_word(word: str) -> bool:
    """Whether a word names a part of the data for training or testing, which is no group: "val", "fold_3"."""
    return SPLIT_WORDS.fullmatch(word) is not None
