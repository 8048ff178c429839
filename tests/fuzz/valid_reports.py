"""Small valid reports and what others made of them, to be mutated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from valid_sets import put_text

from vladapt.domains.medical.reports.curate import SourceForm, curate_findings
from vladapt.domains.medical.reports.mentions import read_mentions, read_triples, words_of_entities


def sources(folder: Path) -> list[Path]:
    """Reports, a table of CheXbert, and JSON of RadGraph and of MedKLIP."""
    np.save(folder / "array.npy", np.array([[[1, 0]]]))
    put_text(folder / "entities.json", json.dumps({"effusion": "fluid", "edema": "water"}))
    names = (
        "Edema",
        "Fracture",
        "Cardiomegaly",
        "Pneumonia",
        "Atelectasis",
        "Pneumothorax",
        "Consolidation",
        "Lung Lesion",
    )
    entity = {"tokens": "edema", "label": "OBS-DA", "start_ix": 1, "end_ix": 1, "relations": []}
    return [
        put_text(folder / "reports.csv", "study,report", "1,FINDINGS: No effusion.", "2,IMPRESSION: Stable edema."),
        put_text(folder / "chexbert.csv", f"study,{','.join(names)}", "1,1,0,-1,,,,,"),
        put_text(folder / "radgraph.json", json.dumps({"s1.txt": {"text": "No edema .", "entities": {"1": entity}}})),
        put_text(folder / "medklip.json", json.dumps({"s1/a.jpg": {"labels_id": 0}})),
    ]


def read(file: Path) -> None:
    of_medklip = {"array": str(file.parent / "array.npy"), "entities": str(file.parent / "entities.json")}
    form = SourceForm(**of_medklip) if file.name == "medklip.json" else SourceForm()
    curate_findings(file, file.parent / "out.csv", form)


def mentions(folder: Path) -> list[Path]:
    """A table of mentions, one of triples, and words of entities."""
    return [
        put_text(folder / "mentions.csv", "study,entity,text", "1,C1,edema", "2,C2,lung"),
        put_text(folder / "triples.csv", "head,relation,tail", "C1,at,C2"),
        put_text(folder / "words.json", json.dumps({"C1": ["edema", "oedema"], "C2": []})),
    ]


def read_mentioned(file: Path) -> None:
    if file.name == "triples.csv":
        read_triples(file)
    else:
        words_of_entities(file)
        if file.suffix == ".csv":
            list(read_mentions(file))
