"""Patients, copies and places of data, as a user meets them on the command line."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def scans(tmp_path):
    """A table of 48 images of 16 patients in two classes; a third of them once more, smaller, as JPEG."""
    folder = tmp_path / "scans"
    folder.mkdir()
    rows = ["file,label,MRN,exam,side"]
    for number in range(48):
        noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((96, 96), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:02}.png")
        about = f"{'sick' if number % 2 else 'well'},M{number // 3},E{number % 5},{'LR'[number % 2]}"
        rows.append(f"{number:02}.png,{about}")
        if number % 3 == 0:
            image.resize((64, 64)).convert("L").save(folder / f"small_{number:02}.jpg", quality=60)
            rows.append(f"small_{number:02}.jpg,{about}")
    (folder / "labels.csv").write_text("\n".join(rows))
    return folder


def test_the_groups_of_a_table_are_told_and_may_be_named(fit, scans, refused):
    outcome = fit("--data", scans)
    assert "Images are grouped by column 'MRN': 16 groups" in outcome.out.replace("\n", " ")
    assert "column 'exam' (5 groups) would group them differently" in outcome.out.replace("\n", " ")
    assert "'exam': 5 groups" in fit("--data", scans, "--group-column", "Exam").out.replace("\n", " ")
    assert "--group-column none" in fit("--data", scans, "--group-column", "none").out.replace("\n", " ")
    assert "--group-column none" in fit("--data", scans, "--set", "data.group_column=none").out.replace("\n", " ")
    shutil.rmtree("runs")
    refused(fit("--data", scans, "--group-column", "ward"), 2, "--group-column ward", "file, label, MRN, exam, side")
    refused(fit("--data", scans, "--label-column", "finding"), 2, "--label-column finding", "file, label, MRN")


def test_near_copies_are_told(fit, scans):
    outcome = fit("--data", scans, "--group-column", "none")
    assert "Near copies of other images (resized or re-encoded): 16; each stays" in outcome.out.replace("\n", " ")


def test_the_same_data_elsewhere_has_the_same_result(fit, scans, tmp_path, monkeypatch):
    seen = []
    for name in ("scans", "far/sub-02/away/scans again"):
        if not (tmp_path / name).exists():
            shutil.copytree(scans, tmp_path / name)
        monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / f"cache of {len(seen)}"))
        outcome = fit("--data", tmp_path / name, "--adapter", "linear-probe", "--batch-size", "16", "--json")
        assert outcome.code == 0, outcome.err
        seen.append({key: outcome.json[key] for key in ("zero_shot", "adapted", "shots")})
    assert seen[0] == seen[1]


def test_compare_and_eval_take_columns_too(vladapt, fit, scans, small_clip_spec):
    how = ("--domain", "medical", "--backbone", small_clip_spec, "--shots", "1", "--seeds", "1", "--out", "compared")
    compared = vladapt("compare", "--adapters", "linear-probe", "--data", scans, "--group-column", "exam", *how)
    assert compared.code == 0 and "grouped by column 'exam': 5 groups" in compared.out.replace("\n", " ")
    run = fit("--data", scans, "--group-column", "MRN", "--json").json["run"]
    other = scans / "others.csv"
    other.write_text((scans / "labels.csv").read_text().replace("MRN", "Ward").replace("label", "finding"))
    assert "--label-column" in vladapt("eval", run, "--data", other, "--group-column", "ward").error
    told = vladapt("eval", run, "--data", other, "--group-column", "ward", "--label-column", "finding")
    assert told.code == 0, told.err
