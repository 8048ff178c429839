"""A run folder is whole or not there, and a bad one is refused in one line."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from vladapt import __version__
from vladapt.core.errors import DataError
from vladapt.core.runs import Run
from vladapt.core.runs.folder import evaluation_folder
from vladapt.core.runtime.files import write_whole

INFO = {
    "domain": "medical",
    "task": "classification",
    "adapter": "ape",
    "class_names": ["a", "b"],
    "backbone": None,
    "recipe": {"shots": 4},
}


def finished(folder: Path, metrics: dict | None = None) -> Run:
    with Run.create(folder, "medical", "ape") as run:
        run.adapter_path.write_bytes(b"weights")
        run.write(INFO, metrics or {"adapted": {"accuracy": 0.5}})
    return run


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        Run.open(path)
    return str(error.value)


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_is_written_is_read_again(tmp_path):
    run = finished(tmp_path / "runs", {"adapted": {"accuracy": 0.75}})
    run.log("fit done\nscore 0.75")
    opened = Run.open(run.path)
    assert opened.info["recipe"] == {"shots": 4} and opened.info["format"] == 1
    assert opened.info["vladapt"] == __version__
    assert opened.metrics == {"adapted": {"accuracy": 0.75}}
    assert opened.adapter_path.read_bytes() == b"weights"
    lines = (run.path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["fit done", "score 0.75"]


def test_the_name_tells_time_domain_and_adapter(tmp_path):
    run = Run.create(tmp_path, "remote-sensing", "tip-adapter")
    assert re.fullmatch(r"\d{8}-\d{6}-remote-sensing-tip-adapter-[0-9a-f]{4}", run.path.name)
    assert Run.create(tmp_path, "remote-sensing", "tip-adapter").path != run.path


def test_without_out_runs_lie_in_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Run.create(None, "medical", "ape").path.parent == Path("runs")


def test_undefined_numbers_become_null(tmp_path):
    run = finished(tmp_path, {"auroc": float("nan"), "list": (1, float("inf")), "where": Path("x")})
    text = (run.path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"auroc": None, "list": [1, None], "where": "x"}
    assert Run.open(run.path).metrics == run.metrics


FILES = ("adapter.safetensors", "calibration.safetensors", "metrics.json")
"""Files of a run that are read where it is used."""


@pytest.fixture(scope="module")
def digested(tmp_path_factory) -> Path:
    """A run with calibration and report, and what was written there later."""
    with Run.create(tmp_path_factory.mktemp("runs"), "medical", "ape") as run:
        run.adapter_path.write_bytes(bytes(range(256)) * 4)
        (run.path / "calibration.safetensors").write_bytes(bytes(range(256)))
        run.write(INFO, {"adapted": {"accuracy": 0.5}})
        (run.path / "report.html").write_text("<p>0.5</p>")
    (run.path / "predictions.csv").write_text("id,label")
    return run.path


def test_a_run_has_the_digests_of_its_files(digested):
    told = Run.open(digested).info.sha256
    assert set(told) == {*FILES, "report.html"}
    assert all(digest == hashlib.sha256((digested / name).read_bytes()).hexdigest() for name, digest in told.items())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_is_found_wherever_it_is(digested, data):
    name = data.draw(st.sampled_from(FILES))
    whole = (digested / name).read_bytes()
    place, bits = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    try:
        (digested / name).write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        assert f"{name}: damaged or replaced" in refusal(digested) and "copy the whole run folder" in refusal(digested)
    finally:
        (digested / name).write_bytes(whole)
    assert Run.open(digested).metrics


def test_a_lost_file_is_missed_and_pages_are_not(digested, tmp_path):
    for name in ("calibration.safetensors", "adapter.safetensors", "report.html", "predictions.csv"):
        copied = shutil.copytree(digested, tmp_path / name)
        (copied / name).unlink()
        if name.endswith(".safetensors"):
            assert name in refusal(copied) and "missing" in refusal(copied)
        else:
            assert Run.open(copied).info.sha256
    (copied / "report.html").write_text("mine")
    assert Run.open(copied).info.sha256


def test_a_run_without_digests_is_opened(digested, tmp_path):
    copied = shutil.copytree(digested, tmp_path / "run")
    content = json.loads((copied / "run.json").read_text())
    del content["sha256"]
    (copied / "run.json").write_text(json.dumps(content))
    (copied / "calibration.safetensors").unlink()
    assert not Run.open(copied).info.sha256


@pytest.mark.parametrize("digests", [{"adapter.safetensors": 5}, ["adapter.safetensors"]])
def test_digests_that_are_none_are_damage(digested, tmp_path, digests):
    copied = shutil.copytree(digested, tmp_path / "run")
    content = json.loads((copied / "run.json").read_text())
    (copied / "run.json").write_text(json.dumps({**content, "sha256": digests}))
    assert "damaged, sha256" in refusal(copied)


def test_digests_ask_for_no_file_outside_the_run(digested, tmp_path):
    copied = shutil.copytree(digested, tmp_path / "run")
    content = json.loads((copied / "run.json").read_text())
    elsewhere = {"../absent.json": "0", str(tmp_path / "absent.safetensors"): "0"}
    (copied / "run.json").write_text(json.dumps({**content, "sha256": {**content["sha256"], **elsewhere}}))
    assert Run.open(copied).metrics


def test_an_adapter_that_is_written_anew_is_known(digested, tmp_path):
    copied = shutil.copytree(digested, tmp_path / "run")
    Run.open(copied).replace_adapter(lambda path: path.write_bytes(b"learned more"))
    opened = Run.open(copied)
    assert opened.adapter_path.read_bytes() == b"learned more" and len(opened.info.sha256) == 4
    content = json.loads((copied / "run.json").read_text())
    assert content["recipe"] == INFO["recipe"] and list(content) == list(
        json.loads((digested / "run.json").read_text())
    )


def test_a_full_disk_at_the_end_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(DataError), Run.create(tmp_path / "runs", "medical", "ape") as run:
        run.write(INFO, {})
        monkeypatch.setattr(os, "replace", no_space)
    assert not (tmp_path / "runs").exists()


def test_the_next_run_removes_what_killed_fits_left_and_nothing_else(tmp_path):
    left = [
        tmp_path / name for name in ("20260101-000000-medical-ape-0a1b", "mine", "20260101-000000-medical-ape-ffff")
    ]
    for folder in left:
        folder.mkdir()
    for folder in left[:2]:
        (folder / ".unfinished").touch()
    with Run.create(tmp_path, "medical", "ape") as at_work, Run.create(tmp_path, "medical", "ape") as run:
        run.finish()
        assert [folder.exists() for folder in left] == [False, True, True]
        assert at_work.path.exists()


def test_a_run_tells_no_folder_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Run.create("runs", "medical", "ape") as run:
        run.write({"data": {"path": str(tmp_path / "data")}, "notes": [f"{tmp_path}/data/a.png: odd"]}, {})
        run.log(f"{tmp_path}/data/a.png: odd")
    told = (run.path / "run.json").read_text() + (run.path / "log.txt").read_text()
    assert str(tmp_path) not in told and run.info["origin"] == "../.."
    assert run.info["notes"] == ["data/a.png: odd"]


def test_an_unfinished_run_is_refused_and_a_finished_one_is_not(tmp_path):
    run = Run.create(tmp_path, "medical", "ape")
    run.adapter_path.write_bytes(b"weights")
    run.write(INFO, {})
    assert "did not finish" in refusal(run.path)
    run.finish()
    assert Run.open(run.path).info["adapter"] == "ape"


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="boom"), Run.create(tmp_path / "new" / "runs", "medical", "ape") as run:
        run.write(INFO, {})
        raise ValueError("boom")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_other_runs_alone(tmp_path):
    kept = finished(tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt), Run.create(tmp_path / "runs", "medical", "ape"):
        raise KeyboardInterrupt
    assert list((tmp_path / "runs").iterdir()) == [kept.path]
    kept.discard()
    assert kept.path.exists()  # a finished run is nobody's to discard


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("os error 28")])
def test_no_space_inside_the_block_is_one_line_and_leaves_nothing(tmp_path, error):
    with pytest.raises(DataError, match="free some space"), Run.create(tmp_path / "runs", "medical", "ape"):
        raise error
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError), Run.create(tmp_path, "medical", "ape"):
        raise FileNotFoundError("image.png")


def test_no_space_while_writing_is_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "run.json"
    write_whole(target, "old")
    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(DataError, match=r"No space left on device.*free some space"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_no_space_for_the_folder_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", no_space)
    with pytest.raises(DataError):
        Run.create(tmp_path / "runs", "medical", "ape")


def test_out_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="--out"):
        Run.create(tmp_path / "file", "medical", "ape")


def test_a_folder_with_one_run_stands_for_it_and_one_with_more_does_not(tmp_path):
    first = finished(tmp_path)
    assert Run.open(tmp_path).path == first.path
    finished(tmp_path)
    assert "holds 2 runs" in refusal(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    assert "no such run folder" in refusal(tmp_path / "nowhere")
    assert "no run.json" in refusal(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "not a run folder" in refusal(tmp_path / "file")


def test_missing_and_damaged_files_are_named(tmp_path):
    run = finished(tmp_path)
    run.adapter_path.unlink()
    assert "adapter.safetensors is missing" in refusal(run.path)
    (run.path / "metrics.json").write_text("[1, 2]")
    run.adapter_path.write_bytes(b"weights")
    assert "metrics.json" in refusal(run.path)
    for damage in (b'{"format": 1, "vlad', b"\xff\xfe\x00", b"[]", b""):
        (run.path / "run.json").write_bytes(damage)
        assert "run.json: damaged" in refusal(run.path)


def test_a_lost_metrics_file_is_replaced_by_what_the_run_says(tmp_path):
    run = finished(tmp_path, {"adapted": {"accuracy": 0.25}})
    (run.path / "metrics.json").unlink()
    assert Run.open(run.path).metrics == {"adapted": {"accuracy": 0.25}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "run format 2"),
        ({"format": None}, "run format None"),
        ({"vladapt": "99.0.0"}, "newer than this"),
        ({"recipe": "gone"}, "lacks recipe"),
    ],
)
def test_a_run_of_another_version_or_with_holes_is_refused(tmp_path, change, says):
    run = finished(tmp_path)
    info = json.loads((run.path / "run.json").read_text()) | change
    info = {key: value for key, value in info.items() if value != "gone"}
    (run.path / "run.json").write_text(json.dumps(info))
    assert says in refusal(run.path)


def test_an_older_run_of_the_same_format_is_read(tmp_path):
    run = finished(tmp_path)
    info = json.loads((run.path / "run.json").read_text()) | {"vladapt": "0.0.9"}
    (run.path / "run.json").write_text(json.dumps(info))
    assert Run.open(run.path).info["vladapt"] == "0.0.9"


def test_an_evaluation_on_data_of_the_longest_name_has_a_folder(tmp_path):
    folder = evaluation_folder(tmp_path, f"data/{'x' * 251}.csv")
    folder.mkdir(parents=True)
    assert folder.parent == tmp_path / "evaluations"
