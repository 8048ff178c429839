"""Patients, copies and places of data, as a user meets them on the command line."""

import json
import shutil
from pathlib import Path

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
    assert "Near copies of other images (resized, turned, cut, ...): 16; each stays" in outcome.out.replace("\n", " ")


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
    how = ("--domain", "medical", "--backbone", small_clip_spec, "--shots", "1", "--seeds", "1", "--splits", "2")
    compared = vladapt("compare", "--adapters", "linear-probe", "--data", scans, "--group-column", "exam", *how)
    assert compared.code == 0 and "grouped by column 'exam': 5 groups" in compared.out.replace("\n", " ")
    run = fit("--data", scans, "--group-column", "MRN", "--json").json["run"]
    other = scans / "others.csv"
    other.write_text((scans / "labels.csv").read_text().replace("MRN", "Ward").replace("label", "finding"))
    assert "--label-column" in vladapt("eval", run, "--data", other, "--group-column", "ward").error
    told = vladapt("eval", run, "--data", other, "--group-column", "ward", "--label-column", "finding")
    assert told.code == 0, told.err


@pytest.fixture
def wards(tmp_path):
    """wards(form): class folders of 20 patients with 6 images each, which look alike; classes mean nothing."""

    def write(form):
        for patient in range(20):
            own = np.random.default_rng(patient).integers(0, 256, (6, 6, 3))
            for number in range(6):
                noise = np.random.default_rng([patient, number]).integers(-40, 41, own.shape)
                file = tmp_path / "wards" / ("sick" if patient % 2 else "well") / f"{form.format(patient, number)}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                image = Image.fromarray(np.clip(own + noise, 0, 255).astype(np.uint8))
                image.resize((48, 48), Image.Resampling.BICUBIC).save(file)
        return tmp_path / "wards"

    return write


@pytest.mark.thorough(but=("pat",))
@pytest.mark.parametrize("form", ["pat{0:03}/img{1}", "person{0}_{1}"])
def test_patients_in_class_folders_are_kept_together(fit, vladapt, wards, form):
    outcome = fit("--data", wards(form), "--json")
    run = json.loads((Path(outcome.json["run"]) / "run.json").read_text())
    assert any("20 groups, whose images look alike" in note for note in run["notes"])
    assert run["data"]["grouping"]["used"] and run["data"]["grouping"]["groups"] == 20
    patients = [{name.split("/")[1].split("_")[0] for name in run["splits"][split]} for split in ("support", "test")]
    assert not patients[0] & patients[1]
    again = vladapt("eval", outcome.json["run"], "--json").json
    assert again["adapted"] == outcome.json["adapted"] and again["in_fit"] == 0


def test_groups_that_are_not_called_so_are_asked_about_with_both_numbers(fit, vladapt, wards, small_clip_spec):
    folder, how = wards("{0:03}/{1}"), ("--adapter", "linear-probe", "--shots", "16")
    outcome = fit("--data", folder, *how, "--json")
    run = Path(outcome.json["run"])
    metrics, info = json.loads((run / "metrics.json").read_text()), json.loads((run / "run.json").read_text())
    doubt = metrics["possible_groups"]
    assert doubt["option"] == "folder" and doubt["by_group"] < doubt["by_image"] - 0.1
    assert sum("--group-column folder" in note for note in info["notes"]) == 1
    assert info["data"]["grouping"] == {
        "option": "folder",
        "groups": 20,
        "p_value": pytest.approx(0.001),
        "used": False,
    }
    assert "whole groups" in (run / "report.html").read_text()
    compared = vladapt(
        *("compare", "--adapters", "linear-probe", "--data", folder, "--domain", "medical", "--out", "compared"),
        *("--backbone", small_clip_spec, "--shots", "1", "--seeds", "1", "--splits", "2"),
    )
    assert "--group-column folder groups them" in compared.out.replace("\n", " ")
    typed = fit("--data", folder, *how, "--group-column", "folder", "--json")
    named = json.loads((Path(typed.json["run"]) / "run.json").read_text())
    assert "possible_groups" not in json.loads((Path(typed.json["run"]) / "metrics.json").read_text())
    assert any("20 groups, none of them divided" in note for note in named["notes"])


def test_a_bad_pattern_is_refused_in_a_line(fit, wards, refused):
    folder = wards("{0}_{1}")
    refused(fit("--data", folder, "--group-column", "stem:("), 2, "--group-column stem:(", "not a regular expression")
    refused(fit("--data", folder, "--group-column", "folder"), 2, "--group-column folder", "no sub-folder")
    assert "20 groups" in fit("--data", folder, "--group-column", r"stem:^(\d+)_").out.replace("\n", " ")


def test_an_older_run_is_evaluated_on_the_images_that_it_kept_for_testing(fit, vladapt, wards, tmp_path):
    outcome = fit("--data", wards("pat{0:03}/img{1}"), "--group-column", "none", "--json")
    file = Path(outcome.json["run"]) / "run.json"
    info = json.loads(file.read_text())
    assert "grouping" not in info["data"]
    del info["recipe"]["data"]["group_column"]
    file.write_text(json.dumps(info))
    again = vladapt("eval", outcome.json["run"], "--json").json
    assert again["adapted"] == outcome.json["adapted"] and again["test_images"] == len(info["splits"]["test"])
