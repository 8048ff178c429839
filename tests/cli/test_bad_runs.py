"""Runs and files that are damaged, of another version or hostile: one line, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.errors import NOT_FINITE

FAILED, USAGE = 1, 2


@pytest.fixture
def run(run, without_digests) -> Path:
    """One that does not tell by itself what of it was changed."""
    return without_digests(run)


@pytest.fixture(params=["eval", "predict"])
def use(request, vladapt, colours):
    """Use a run: evaluate it, or predict an image with it."""
    images = [colours / "red" / "00.png"] if request.param == "predict" else []
    return lambda run: vladapt(request.param, run, *images)


def check_use(outcome, *words):
    assert outcome.code == FAILED and outcome.out == "", outcome
    for word in words:
        assert word in outcome.error


def test_a_run_that_is_not_there_or_none(use, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    check_use(use("absent"), "absent", "no such run folder", "vladapt fit")
    check_use(use("empty"), "empty", "no run.json", "give a run folder")
    check_use(use("file"), "file", "not a run folder")


def test_runs_of_other_versions_and_damaged_ones(use, run):
    info = json.loads((run / "run.json").read_text())
    kept = {name: (run / name).read_bytes() for name in ("run.json", "adapter.safetensors")}

    def changed(**fields):
        (run / "run.json").write_text(json.dumps({**info, **fields}))
        return use(run)

    check_use(changed(format=99), str(run), "format 99", "fit again")
    check_use(changed(vladapt="9.1.0"), str(run), "9.1.0", "newer", "upgrade")
    check_use(changed(domain="gone"), "'gone'", "not installed", "install its package")
    check_use(changed(recipe="none"), "run.json", "damaged")
    gone = info["backbone"]["spec"] + "x"
    check_use(changed(backbone={"spec": gone}, recipe={**info["recipe"], "backbone": gone}), "small.safetensorsx")
    check_use(changed(backbone="small"), "run.json", "damaged")
    for key, value in {"templates": 5, "notes": "x", "calibration": [1], "digests": {"val": 5}, "origin": 5}.items():
        check_use(changed(**{key: value}), "run.json", "damaged", key)
    (run / "run.json").write_text(json.dumps({k: v for k, v in info.items() if k != "recipe"}))
    check_use(use(run), "run.json", "lacks recipe", "fit again")
    (run / "run.json").write_bytes(kept["run.json"][:100])
    check_use(use(run), "run.json", "damaged", "fit again")
    (run / "run.json").write_bytes(kept["run.json"])
    (run / "adapter.safetensors").write_bytes(kept["adapter.safetensors"][:-100])
    check_use(use(run), "adapter.safetensors", "fit again")
    (run / "adapter.safetensors").unlink()
    check_use(use(run), "adapter.safetensors is missing", "fit again")
    (run / "adapter.safetensors").write_bytes(kept["adapter.safetensors"])
    (run / ".unfinished").touch()
    check_use(use(run), str(run), "did not finish", "fit again")
    (run / ".unfinished").unlink()
    assert use(run).code == 0  # it is the changes that were refused


def test_a_run_that_is_not_as_it_was_written(use, run, fitted_once):
    told = json.loads((fitted_once[0] / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(told | {"recipe": json.loads((run / "run.json").read_text())["recipe"]}))
    assert use(run).code == 0
    for name in ("adapter.safetensors", "calibration.safetensors", "linear-probe.safetensors"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        check_use(use(run), str(run / name), "damaged or replaced", "copy the whole run folder again, or fit again")
        (run / name).unlink()
        check_use(use(run), name, "missing", "copy the whole run folder")
        (run / name).write_bytes(whole)


@pytest.mark.parametrize("command", ["predict", "eval", "export"])
def test_an_adapter_that_overflows_names_no_class(vladapt, run, colours, tmp_path, command):
    header, tensors = read_safetensors(run / "adapter.safetensors")
    tensors["keys"] = tensors["keys"] * 1e38
    write_safetensors(run / "adapter.safetensors", header, tensors)
    images, out = ([colours / "red"], "rows.jsonl") if command == "predict" else ([], "folder")
    outcome = vladapt(command, run, *images, "--out", tmp_path / out)
    line = outcome.err.strip().splitlines()[-1]  # an export tells of its progress before
    assert outcome.code == FAILED and outcome.out == ""
    assert ("image 1 of 12: " if command == "export" else ".png: ") + NOT_FINITE in line
    assert "other images; copy the run again, or fit again" in line
    assert not (tmp_path / out).exists()


def test_an_adapter_file_of_another_backbone(use, run, tmp_path, small_clip_spec):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = run / "adapter.safetensors"
    with safe_open(str(path), "pt") as f:
        header, tensors = f.metadata(), {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    changed = json.loads(header["vladapt"])
    save_file(tensors, path, metadata={"vladapt": json.dumps({**changed, "backbone": "another"})})
    check_use(use(run), "adapter.safetensors", "another", "load the backbone of the fit")
    save_file(tensors, path, metadata={"vladapt": json.dumps({**changed, "format": 7})})
    check_use(use(run), "adapter.safetensors", "format 7")
    save_file(tensors, path, metadata={"vladapt": json.dumps({"adapter": "tip-adapter", "format": 1})})
    check_use(use(run), "adapter.safetensors", "lacks")
    save_file({}, path, metadata={"vladapt": header["vladapt"]})
    check_use(use(run), "adapter.safetensors", "lacks", "fit again")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('"seconds": NaN', "NaN is not a JSON number"),
        ('"seconds": -Infinity', "-Infinity is not a JSON number"),
        ('"seconds": 1e999', "1e999"),
        (f'"seconds": {"7" * 400}', "400 digits"),
        (f'"deep": {"[" * 100_000}{"]" * 100_000}', "not readable as JSON"),
        ('"class_names": ["red", 3]', "class_names"),
        ('"backbone": {"spec": ["embedded"]}', "backbone.spec"),
        ('"plan": "model"', "plan"),
        ('"recipe": {"workers": "many"}', "its recipe is damaged"),
        ('"recipe": {"batch_size": -4}', "its recipe is damaged"),
        ('"recipe": {"plan": 3}', "its recipe is damaged"),
        ('"recipe": {"given": 3}', "its recipe is damaged"),
        ('"class_names": ["red", "green"]', "different classes"),
    ],
)
def test_numbers_and_types_of_run_json(use, run, text, says):
    info = (run / "run.json").read_text()
    (run / "run.json").write_text(f"{info.rstrip().removesuffix('}')}, {text}}}")  # of a key twice the last counts
    check_use(use(run), says, str(run))


def test_metrics_that_are_no_numbers(use, run):
    (run / "metrics.json").write_text('{"adapted": {"accuracy": NaN}}')
    check_use(use(run), "metrics.json", "NaN")


def test_a_pipe_in_place_of_a_file_is_no_wait(use, run):
    (run / "metrics.json").unlink()
    os.mkfifo(run / "metrics.json")
    check_use(use(run), "metrics.json", "not a file")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda keys: keys.fill_(float("nan")), "keys holds NaN"),
        (lambda keys: (keys.abs() + 1) * float("-inf"), "keys holds infinity"),
        (lambda keys: keys[:-1].contiguous(), "keys is float32"),
        (lambda keys: keys.double(), "keys is float64"),
        (lambda keys: keys.t().contiguous(), "the fit wrote float32"),
        (lambda keys: None, "lacks keys"),
    ],
)
def test_tensors_of_an_adapter_are_those_that_were_written(use, run, damage, says):
    header, tensors = read_safetensors(run / "adapter.safetensors")
    damaged = damage(tensors["keys"])
    tensors = {name: value for name, value in {**tensors, "keys": damaged}.items() if value is not None}
    write_safetensors(run / "adapter.safetensors", header, tensors)
    check_use(use(run), "adapter.safetensors", says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"class_names": "red"}, "class_names"),
        ({"class_names": [1, 2, 3]}, "class_names"),
        ({"dim": "24"}, "'dim'"),
        ({"dim": 10**12}, "'dim'"),
        ({"dim": -5}, "'dim'"),
        ({"scalars": {"alpha": [[float("nan")]]}}, "'alpha' in its header is nan"),
        ({"scalars": [1]}, "'scalars'"),
        ({"options": {"nothing": 1}}, "nothing"),
        ({"adapter": "os.system"}, "os.system"),
    ],
)
def test_headers_of_an_adapter_are_of_their_types(use, run, change, says):
    header, tensors = read_safetensors(run / "adapter.safetensors")
    write_safetensors(run / "adapter.safetensors", {**header, **change}, tensors)
    check_use(use(run), "adapter.safetensors", says)


def test_tensors_of_an_older_file_that_do_not_fit_one_another(use, run):
    """Files of before say no shapes; what cannot be multiplied is still one line."""
    header, tensors = read_safetensors(run / "adapter.safetensors")
    header.pop("tensors")
    tensors["keys"] = tensors["keys"][:, :-1].contiguous()
    write_safetensors(run / "adapter.safetensors", header, tensors)
    check_use(use(run), "adapter.safetensors", "do not match one another")


def read_safetensors(path):
    from safetensors import safe_open

    with safe_open(str(path), "pt") as f:
        return json.loads(f.metadata()["vladapt"]), {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118


def write_safetensors(path, header, tensors):
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"vladapt": json.dumps(header)})


def test_eval_on_data_that_does_not_fit_the_run(vladapt, run, class_folders):
    other = class_folders("red", "green", name="other")
    (other / "green").rename(other / "mauve")
    outcome = vladapt("eval", run, "--data", other)
    assert outcome.code == FAILED and "'mauve' is not one of the run's (blue, green, red)" in outcome.error
    outcome = vladapt("eval", run, "--data", "nowhere")
    assert outcome.code == FAILED and "nowhere" in outcome.error
    outcome = vladapt("eval", run, "--split", "tset")
    assert outcome.code == USAGE and "--split tset" in outcome.error and "did you mean test?" in outcome.error


def test_eval_of_a_run_whose_data_went_away(vladapt, run, colours):
    shutil.rmtree(colours)
    outcome = vladapt("eval", run)
    assert outcome.code == FAILED and str(colours) in outcome.error and "--data" in outcome.error


def test_predict_on_what_is_no_image(vladapt, run, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "void").mkdir()
    for name, words in {
        "bad.png": "not an image",
        "empty.png": "empty file",
        "void": "no readable image",
        "absent.png": "no such file",
    }.items():
        outcome = vladapt("predict", run, name)
        assert outcome.code == FAILED and name in outcome.error and words in outcome.error, outcome.err
        assert outcome.out == ""


# Pickles


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


@pytest.fixture
def trap(tmp_path):
    return Trap(tmp_path / "sprung")


def test_the_trap_works(trap, tmp_path):
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickled_checkpoint_is_refused_and_never_run(fit, refused, colours, trap, tmp_path, small_clip_spec, how):
    import torch

    if how == "torch":
        torch.save({"state_dict": trap}, tmp_path / "evil.pt")
    else:
        (tmp_path / "evil.pt").write_bytes(pickle.dumps(trap))
    config = small_clip_spec.partition("@")[0]
    refused(fit("--data", colours, "--backbone", f"{config}@{tmp_path / 'evil.pt'}"), FAILED, "evil.pt", "safetensors")
    assert not trap.mark.exists()


def test_a_pickle_in_place_of_the_adapter_is_refused_and_never_run(use, run, trap):
    (run / "adapter.safetensors").write_bytes(pickle.dumps(trap))
    check_use(use(run), "adapter.safetensors", "not a readable safetensors file")
    assert not trap.mark.exists()


def test_pickled_arrays_are_refused_and_never_run(fit, refused, trap, tmp_path):
    evil = np.array([trap, trap], dtype=object)
    np.savez(tmp_path / "evil.npz", image_features=evil, labels=evil, text_features=evil, class_names=evil)
    refused(fit("--features", "evil.npz"), FAILED, "evil.npz", "pickled")
    splits = {f"{split}_{what}": evil for split in ("train", "val", "test") for what in ("images", "labels")}
    np.savez(tmp_path / "mnist.npz", **splits)
    refused(fit("--data", "mnist.npz"), FAILED, "mnist.npz")
    assert not trap.mark.exists()
