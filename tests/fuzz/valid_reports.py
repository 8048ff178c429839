"""Small valid reports and what others made of them, to be mutated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from valid_sets import put_text

from vladapt.domains.medical.reports.curate import Form, curate_findings


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
    form = Form(**of_medklip) if file.name == "medklip.json" else Form()
    curate_findings(file, file.parent / "out.csv", form)
