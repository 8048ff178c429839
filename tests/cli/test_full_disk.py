"""No space left on the disk: one line that says what to free, and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

FAILED = 1
REPLACE = os.replace


@pytest.fixture(params=["stand-in", "real"])
def full_disk(request, monkeypatch, tmp_path):
    """full_disk(folder): from now on nothing can be finished there. A real small disk where one can be mounted."""
    mounted = []

    def fill(folder: Path, size: str = "16k", full: bool = True) -> None:
        if request.param == "stand-in":
            return monkeypatch.setattr(os, "replace", _replace_but_in(folder))
        if shutil.which("mount") is None:
            pytest.skip("no small disk can be mounted here")
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no small disk can be mounted here")
        mounted.append(folder)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as f:
            while full:
                f.write(bytes(1024))
        return None

    yield fill
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _replace_but_in(folder: Path):
    replace = REPLACE

    def refusing(source, target):
        if Path(target).is_relative_to(folder):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replace(source, target)

    return refusing


@pytest.mark.parametrize(("full", "cure"), [("cache", "VLADAPT_CACHE"), ("out", "--out")])
def test_no_space_left_for_features_or_the_run(fit, colours, tmp_path, monkeypatch, full_disk, full, cure):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    full_disk(tmp_path / full)
    outcome = fit("--data", colours, "--out", tmp_path / "out", "--adapter", "tip-adapter", "--set", "adapter.views=0")
    assert outcome.code == FAILED and outcome.out == ""
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("vladapt: ") and "No space left on device" in line and str(tmp_path / full) in line
    assert "free some space" in line and cure in line
    assert files_in(tmp_path / "out") == []
    assert not [path for path in files_in(tmp_path / full) if "partial" in path.name]


@pytest.mark.parametrize("command", ["compare", "embed"])
def test_no_space_left_for_a_table_or_features(vladapt, small_clip_spec, colours, tmp_path, full_disk, command):
    full_disk(tmp_path / "out")
    base = [command, "--domain", "medical", "--backbone", small_clip_spec, "--data", colours]
    more = {
        "compare": ["--adapters", "linear-probe", "--shots", "1,2", "--seeds", "1", "--out", tmp_path / "out"],
        "embed": ["--out", tmp_path / "out" / "features.safetensors"],
    }
    outcome = vladapt(*base, *more[command])
    assert outcome.code == FAILED and outcome.out == ""
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("vladapt: ") and "No space left" in line
    assert str(tmp_path / "out") in line and "another --out" in line
    assert files_in(tmp_path / "out") == []


def test_no_space_left_for_a_checkpoint(vladapt, small_clip_spec, colours, tmp_path, full_disk, monkeypatch):
    """The one before stays whole, and the training goes on from it."""
    rows = [f"{file},{file.parent.name} {file.stem}" for file in sorted(colours.rglob("*.png"))]
    (tmp_path / "pairs.csv").write_text("\n".join(["image,caption", *rows]))
    base = ["pretrain", "--backbone", small_clip_spec, "--data", "pairs.csv", "--epochs", "3", "--batch-size", "12"]
    base += ["--set", "save_every=1", "--out", tmp_path / "out" / "model"]
    full_disk(tmp_path / "out", size="9m", full=False)
    if os.replace is not REPLACE:
        monkeypatch.setattr(os, "replace", _replace_twice_in(tmp_path / "out"))
    outcome = vladapt(*base)
    assert outcome.code == FAILED and outcome.out == ""
    line = outcome.err.strip().splitlines()[-1]
    assert "checkpoints: cannot be written there (No space left" in line and "--resume" in line
    kept = sorted(path.name for path in (tmp_path / "out").rglob("step-*"))
    assert kept and not [path for path in files_in(tmp_path / "out") if "partial" in path.name]
    from vladapt.core.training.checkpoints import checkpoints, newest_checkpoint

    (folder,) = {path.parent for path in (tmp_path / "out").rglob("step-*")}
    state, path, notes = newest_checkpoint(folder)
    assert state is not None and path == checkpoints(folder)[-1] and notes == []


def _replace_twice_in(folder: Path):
    """The log, the first checkpoint and its digest are written, the second one is not."""
    refusing, left = _replace_but_in(folder), [2]

    def replace(source, target):
        of_checkpoint = Path(target).name.startswith("step-")
        if Path(target).is_relative_to(folder) and (left[0] or not of_checkpoint):
            left[0] -= of_checkpoint
            return REPLACE(source, target)
        return refusing(source, target)

    return replace


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != "filler" and (path.is_file() or path.name != "out")]
