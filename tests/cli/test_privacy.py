"""What a run tells of the machine it was made on, and with `--redact` of single images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

ADAPTER = ("--adapter", "tip-adapter", "--set", "adapter.views=0")


def everything_in(folder: Path) -> str:
    """All files of a folder, and their names, as text."""
    return "\n".join(f"{path.name}\n{path.read_bytes().decode('utf-8', 'replace')}" for path in folder.rglob("*.*"))


@pytest.fixture
def fitted(fit, colours, tmp_path):
    """fitted("--out", "runs", ...) -> the run of a fit whose data is given as `data`, beside it."""

    def call(*arguments) -> Path:
        outcome = fit("--data", "data", *ADAPTER, *arguments, "--json")
        assert outcome.code == 0, outcome.err
        return tmp_path / outcome.json["run"]

    return call


@pytest.mark.parametrize("out", [[], ["--out", "made/here"], ["--out", "ABSOLUTE"]])
def test_a_run_holds_no_path_of_the_machine(fitted, tmp_path, out):
    run = fitted(*[str(tmp_path / "elsewhere") if word == "ABSOLUTE" else word for word in out])
    told = everything_in(run).replace("small-clip0", "")
    backbone = json.loads((run / "run.json").read_text())["backbone"]["spec"]
    assert str(tmp_path) not in told.replace(backbone, "")
    assert json.loads((run / "run.json").read_text())["data"]["path"] == "data"


def test_data_that_lies_in_the_working_directory_is_told_from_there(fit, colours, tmp_path):
    run = tmp_path / fit("--data", colours, *ADAPTER, "--json").json["run"]
    assert json.loads((run / "run.json").read_text())["data"]["path"] == "data"


def test_a_run_is_scored_again_from_any_folder_and_where_both_were_moved_to(vladapt, fitted, tmp_path, monkeypatch):
    run = fitted()
    expected = vladapt("eval", run, "--json").json
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert vladapt("eval", run, "--json").json["adapted"] == expected["adapted"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "moved").mkdir()
    for name in ("data", "runs"):
        shutil.move(tmp_path / name, tmp_path / "moved" / name)
    again = vladapt("eval", tmp_path / "moved" / run.relative_to(tmp_path), "--json")
    assert again.code == 0 and again.json["adapted"] == expected["adapted"]


def test_resources_are_told_and_found_as_the_data_is(fit, vladapt, colours, tmp_path, monkeypatch):
    (tmp_path / "texts.json").write_text(json.dumps({c: [f"a {c} thing"] for c in ("red", "green", "blue")}))
    outcome = fit("--data", "data", "--adapter", "zero-shot", "--resource", "descriptions=texts.json", "--json")
    assert outcome.code == 0, outcome.err
    run = tmp_path / outcome.json["run"]
    backbone = json.loads((run / "run.json").read_text())["backbone"]["spec"]
    assert str(tmp_path) not in everything_in(run).replace(backbone, "")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = vladapt("eval", run, "--json")
    assert again.code == 0, again.err
    assert again.json["adapted"] == outcome.json["adapted"]


@pytest.fixture
def named(colours) -> list[str]:
    """The colours with the names of people, one image broken and a third of them in the wrong folder; the names."""
    names = []
    for red, green in zip(sorted((colours / "red").glob("*.png"))[::3], sorted((colours / "green").glob("*.png"))[::3]):
        one, other = red.read_bytes(), green.read_bytes()
        red.write_bytes(other)
        green.write_bytes(one)
    for number, path in enumerate(sorted(colours.rglob("*.png"))):
        name = f"Meyer_Anna-{number:02d}.png"
        path.rename(path.with_name(name))
        names.append(f"{path.parent.name}/{name}")
    (colours / "red" / "Broken_Bernd.png").write_text("no image")
    return [*names, "red/Broken_Bernd.png"]


def test_a_redacted_run_names_no_file_and_shows_no_picture(fitted, named):
    plain, redacted = fitted(), fitted("--redact")
    assert "Meyer" in everything_in(plain) and "<img" in (plain / "report.html").read_text()
    told = everything_in(redacted)
    assert not [name for name in named if name in told or Path(name).name in told]
    assert "Meyer" not in told and "Broken_Bernd" not in told and "data:image/jpeg" not in told
    assert "'data'" not in told and '"path": "data"' not in told
    info = json.loads((redacted / "run.json").read_text())
    assert info["splits"]["test"] and all(name.startswith("sample ") for name in info["splits"]["test"])
    assert len({*info["splits"]["test"], *info["splits"]["support"]}) == sum(
        len(info["splits"][split]) for split in ("test", "support")
    )
    assert info["skipped"][0][0] == "unreadable sample 1"


def test_redaction_changes_no_number(fitted, named):
    plain, redacted = fitted(), fitted("--redact")
    for name in ("metrics.json", "adapter.safetensors"):
        assert (plain / name).read_bytes() == (redacted / name).read_bytes()


def test_a_redacted_run_is_scored_on_data_that_is_named_and_predicts(vladapt, fitted, named, colours):
    run = fitted("--redact")
    outcome = vladapt("eval", run)
    assert outcome.code == 1 and "redacted" in outcome.error and "--data" in outcome.error
    again = vladapt("eval", run, "--data", "data", "--redact", "--json")
    assert again.code == 0, again.err
    assert again.json["data"] == "redacted data" and "Meyer" not in again.out
    assert vladapt("predict", run, colours / "red").code == 0


def test_a_redacted_features_run_numbers_its_rows(vladapt, fit, small_clip_spec, named, tmp_path):
    base = ["--domain", "medical", "--backbone", small_clip_spec, "--data", "data"]
    assert vladapt("embed", *base, "--out", "f.npz").code == 0
    outcome = vladapt("fit", "--features", "f.npz", "--adapter", "tip-adapter", "--shots", 2, "--redact", "--json")
    assert outcome.code == 0, outcome.err
    assert "Meyer" not in everything_in(tmp_path / outcome.json["run"])


def test_a_redacted_comparison_names_no_data_set(vladapt, small_clip_spec, named, tmp_path):
    shutil.copytree(tmp_path / "data", tmp_path / "Clinic_North")
    base = ["compare", "--domain", "medical", "--backbone", small_clip_spec, "--shots", "1", "--seeds", "1"]
    more = ["--data", "data", "--data", "Clinic_North", "--adapters", "linear-probe", "--out", "table"]
    outcome = vladapt(*base, *more, "--splits", "2", "--redact")
    assert outcome.code == 0, outcome.err
    for told in (everything_in(tmp_path / "table"), outcome.out, os.listdir(tmp_path / "table")):
        assert "Meyer" not in told and "Broken_Bernd" not in told and "Clinic" not in str(told)


def test_a_command_that_cannot_redact_says_so(vladapt):
    outcome = vladapt("pretrain", "--data", "pairs.csv", "--out", "m", "--redact")
    assert outcome.code == 2
