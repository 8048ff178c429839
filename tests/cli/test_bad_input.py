"""Whatever is wrong with what the user gives: one line that names it and says what to do, and nothing half-written."""

from __future__ import annotations

import csv
import errno
import json
import os
import pickle
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

FAILED, USAGE = 1, 2


@pytest.fixture
def refused(tmp_path):
    """refused(outcome, code, *words): one line on stderr with the words, nothing on stdout, no run left."""

    def check(outcome, code: int, *words: str) -> None:
        assert outcome.code == code, outcome.err
        for word in words:
            assert word in outcome.error
        assert outcome.out == "" and "Traceback" not in outcome.err
        assert len(outcome.error) < 600
        assert not (tmp_path / "runs").exists()
        assert not [p for p in tmp_path.rglob("*") if "partial" in p.name or p.name == ".unfinished"]

    return check


# What is given as data


def test_no_such_path(fit, refused):
    refused(fit("--data", "nowhere"), FAILED, "--data nowhere", "no such file or folder", "give the path")


def test_an_empty_folder(fit, refused, tmp_path):
    (tmp_path / "data").mkdir()
    refused(fit("--data", "data"), FAILED, "data", "empty folder", "give a folder of class folders")


def test_a_folder_without_images(fit, refused, tmp_path):
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "notes.txt").write_text("no image")
    refused(fit("--data", "data"), FAILED, "data", "no image in it", ".png", "folder")


def test_one_class_only(fit, refused, class_folders):
    outcome = fit("--data", class_folders("red"))
    refused(outcome, FAILED, "data", "only one class, 'red'", "put the images of each class")


def test_one_class_only_in_a_manifest(fit, refused, class_folders):
    table = _manifest(class_folders("red"), *({"image": f"red/{i:02d}.png", "label": "red"} for i in range(2)))
    refused(fit("--data", table), FAILED, "labels.csv", "1 class", "at least two classes")


def test_no_readable_image(fit, refused, tmp_path):
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / "data" / name / f"{i}.png").write_text("no image")
    refused(fit("--data", "data"), FAILED, "10 of 10 images cannot be read", "more than 5%", "repair or remove")


def test_a_file_that_is_no_data_set(fit, refused, tmp_path):
    (tmp_path / "thing.xyz").write_text("?")
    refused(fit("--data", "thing.xyz"), FAILED, "thing.xyz", "not a known kind of data set", "give")


def test_a_manifest_without_its_label_column(fit, refused, colours):
    table = _manifest(colours, {"image": "red/00.png", "colour": "red"})
    refused(fit("--data", table), FAILED, "labels.csv", "label", "image, colour")


def test_a_manifest_without_its_image_column(fit, refused, colours):
    table = _manifest(colours, {"scan": "red/00.png", "label": "red"})
    refused(fit("--data", table), FAILED, "labels.csv", "image", "scan, label")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname"])
def test_a_manifest_whose_path_leaves_the_folder(fit, refused, colours, path):
    table = _manifest(colours, {"image": "red/00.png", "label": "red"}, {"image": path, "label": "green"})
    refused(fit("--data", table), FAILED, "labels.csv line 3", path, "leaves the folder", "list only files inside it")


def test_a_label_that_is_not_in_the_list(fit, refused, colours):
    table = _manifest(colours, {"image": "red/00.png", "label": "red"}, {"image": "green/00.png", "label": "gren"})
    outcome = fit("--data", table, "--set", "data.class_names=red,green")
    refused(outcome, FAILED, "labels.csv line 3", "'gren'", "did you mean green")


def test_a_manifest_of_missing_images(fit, refused, colours):
    table = _manifest(colours, {"image": "red/99.png", "label": "red"}, {"image": "red/98.png", "label": "green"})
    refused(fit("--data", table), FAILED, "labels.csv", "red/99.png", "no such file", "correct them")


def test_more_than_one_in_twenty_missing_stops_before_training(fit, refused, colours):
    for path in sorted(colours.glob("*/*.png"))[:2]:  # 2 of 36: 5.6 %
        path.write_bytes(path.read_bytes()[:40])
    refused(fit("--data", colours), FAILED, "2 of 36 images cannot be read, more than 5%", "blue/00.png", "repair")


def _manifest(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "labels.csv"
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


# Names and numbers


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapter", "tip-adaptor"], ["adapter 'tip-adaptor'", "did you mean tip-adapter"]),
        (["--domain", "medcal"], ["domain 'medcal'", "did you mean medical?"]),
        (["--backbone", "embeded"], ["backbone 'embeded'", "did you mean embedded?"]),
        (["--backbone", "open_clip:ViT-B-33/openai"], ["'ViT-B-33'", "did you mean ViT-B-32"]),
        (["--shot", "4"], ["--shot ", "--shots", "vladapt fit --help"]),
        (["--set", "adapter.alhpa=2", "--adapter", "tip-adapter"], ["'alhpa'", "did you mean alpha"]),
        (["--set", "shotz=2"], ["'shotz'", "did you mean shots"]),
        (["--set", "data.windwo=lung"], ["'windwo'", "did you mean window?"]),
        (["--set", "data.window=lungs"], ["'lungs'", "did you mean lung"]),
        (["--set", "data.modality=histologi"], ["option modality=histologi ", "did you mean histology?"]),
        (["--recipe", "medical/chest-xry"], ["'medical/chest-xry'", "did you mean medical/chest-xray"]),
        (["--task", "clasification"], ["--task clasification", "classification"]),
        (["--classes", "red,gren"], ["--classes", "'gren'", "did you mean green"]),
        (["--loss", "cross-entropi", "--adapter", "tip-adapter"], ["tip-adapter", "no option 'loss'"]),
        (["--amp", "bf17"], ["--amp bf17", "bf16"]),
        (["--device", "gpu"], ["--device gpu", "cuda"]),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(fit, refused, colours, arguments, words):
    refused(fit("--data", colours, *arguments), USAGE, *words)


def test_an_unknown_command_and_an_unknown_kind_of_list(vladapt, refused):
    refused(vladapt("fitt"), USAGE, "fitt", "fit")
    refused(vladapt("list", "adaptors"), USAGE, "adaptors", "did you mean adapters?")
    refused(vladapt("show", "medical/defualt"), USAGE, "defualt", "did you mean medical/default")


@pytest.mark.parametrize("shots", ["-3", "-1", "many", "1.5", ""])
def test_shots_that_are_no_number_of_images(fit, refused, colours, shots):
    refused(fit("--data", colours, "--shots", shots), USAGE, "--shots", shots)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shots", "0"),
        ("shots", "two"),
        ("shots", "True"),
        ("shots", "None"),
        ("seed", "-1"),
        ("split_seed", "x"),
        ("batch_size", "0"),
        ("workers", "-1"),
        ("image_size", "0"),
        ("novel", "perhaps"),
        ("adapter.views", "-3"),
        ("data.central", "7"),
        ("backbone", "7"),
        ("device", "7"),
        ("data.path", "7"),
    ],
)
def test_values_out_of_range(vladapt, refused, small_clip_spec, colours, key, value):
    data = [] if key == "data.path" else ["--data", colours]
    spec = [] if key == "backbone" else ["--backbone", small_clip_spec]
    outcome = vladapt("fit", "--domain", "medical", *data, *spec, "--set", f"{key}={value}")
    refused(outcome, USAGE, key.split(".")[0 if key == "data.path" else -1].replace("_", "-").split("-")[0], value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapter", "coop", "--epochs", "0"], ["epochs", "0"]),
        (["--adapter", "coop", "--lr", "-1"], ["lr", "-1"]),
        (["--adapter", "coop", "--epochs", "-5"], ["epochs", "-5"]),
        (["--adapter", "tip-adapter", "--epochs", "3"], ["tip-adapter", "epochs"]),
        (["--batch-size", "0"], ["--batch-size", "0"]),
        (["--workers", "-2"], ["--workers", "-2"]),
        (["--seed", "-2"], ["--seed", "-2"]),
        (["--set", "nonsense"], ["--set nonsense", "key=value"]),
        (["--set", "shots.deep=3"], ["shots", "one value"]),
        (["--set", "templates=5"], ["templates"]),
        (["--set", "templates=no class here"], ["template 'no class here'", "{}"]),
        (["--config", "absent.py"], ["absent.py", "no such file"]),
        (["--classes", "red"], ["--classes", "two classes"]),
        (["--features", "absent.npz"], ["--data and --features", "one of them"]),
        (["--set", "descriptions=absent.json"], ["absent.json"]),
    ],
)
def test_values_that_cannot_be_used(fit, refused, colours, arguments, words):
    code = FAILED if "descriptions=absent.json" in arguments else USAGE
    refused(fit("--data", colours, *arguments), code, *words)


def test_a_features_file_that_is_not_there(fit, refused):
    refused(fit("--features", "absent.npz"), FAILED, "absent.npz", "no such file", ".safetensors or .npz")


def test_a_recipe_file_that_does_not_parse_or_has_an_unknown_key(fit, refused, colours, tmp_path):
    (tmp_path / "mine.py").write_text("shots = = 3\n")
    refused(fit("--data", colours, "--config", "mine.py"), USAGE, "--config mine.py", "cannot be read")
    (tmp_path / "other.py").write_text("shotss = 3\n")
    refused(fit("--data", colours, "--config", "other.py"), USAGE, "other.py", "'shotss'", "did you mean shots?")
    (tmp_path / "words.json").write_text("[1, 2]")
    refused(fit("--data", colours, "--config", "words.json"), USAGE, "--config words.json")


def test_no_domain_is_asked_for_by_name(vladapt, refused, colours, small_clip_spec):
    refused(vladapt("fit", "--data", colours), USAGE, "--domain", "medical")
    refused(vladapt("embed", colours, "--out", "f.npz", "--backbone", small_clip_spec), USAGE, "--domain", "medical")
    refused(vladapt("compare", "--adapters", "ape", "--data", colours), USAGE, "--domain", "medical")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapters", "ape,tipp-adapter"], ["'tipp-adapter'", "did you mean tip-adapter"]),
        (["--adapters", "ape", "--shots", "1,x"], ["--shots 1,x", "whole numbers"]),
        (["--adapters", "ape", "--shots", "-1,4"], ["--shots -1,4", "0 or more"]),
        (["--adapters", "ape", "--shots", ""], ["--shots", "whole numbers"]),
        (["--adapters", "ape", "--seeds", "-1"], ["--seeds -1", "of 0 or more"]),
        (["--adapters", "ape", "--seeds", ""], ["--seeds", "whole numbers"]),
        (["--adapters", ""], ["--adapters"]),
        ([], ["--adapters"]),
    ],
)
def test_compare_refuses_what_fit_would(vladapt, refused, small_clip_spec, colours, arguments, words):
    base = ["compare", "--domain", "medical", "--backbone", small_clip_spec, "--data", colours]
    refused(vladapt(*base, *arguments), USAGE, *words)


# Runs


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


def test_eval_on_data_that_does_not_fit_the_run(vladapt, run, class_folders):
    other = class_folders("red", "green", name="other")
    (other / "green").rename(other / "mauve")
    outcome = vladapt("eval", run, "--data", other)
    assert outcome.code == FAILED and "'mauve' is none of the run's (blue, green, red)" in outcome.error
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
        "bad.png": "no image",
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


# Features files and methods


def features_file(path: Path, drop: str = "", several: bool = False) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    arrays = {
        "image_features": rng.normal(size=(60, 8)).astype(np.float32) + 3 * np.eye(8, dtype=np.float32)[labels],
        "labels": np.eye(3, dtype=np.float32)[labels] if several else labels,
        "text_features": np.eye(8, dtype=np.float32)[:3],
        "class_names": np.array(["red", "green", "blue"]),
    }
    np.savez(path, **{key: value for key, value in arrays.items() if key != drop})
    return path


@pytest.mark.parametrize("array", ["image_features", "text_features", "class_names"])
def test_a_features_file_without_one_of_its_arrays(fit, refused, tmp_path, array):
    path = features_file(tmp_path / "f.npz", drop=array)
    refused(fit("--features", path), FAILED, "f.npz", f"lacks {array}", "add what is missing")


def test_a_features_file_without_labels_teaches_nothing(fit, refused, tmp_path):
    path = features_file(tmp_path / "f.npz", drop="labels")
    refused(fit("--features", path), FAILED, "f.npz: its rows have no labels", "give --shots 0")
    outcome = fit("--features", path, "--adapter", "ape", "--shots", 0)
    refused(outcome, USAGE, "--shots 0: adapter 'ape' learns from labelled images")


def test_a_method_that_needs_a_text_tower_says_a_features_file_has_none(fit, refused, tmp_path):
    outcome = fit("--features", features_file(tmp_path / "f.npz"), "--adapter", "coop")
    refused(outcome, FAILED, "coop", "text")


@pytest.mark.parametrize("adapter", ["ape", "ape-t"])
def test_a_method_for_one_label_refuses_several(fit, refused, tmp_path, adapter):
    outcome = fit("--features", features_file(tmp_path / "f.npz", several=True), "--adapter", adapter)
    refused(outcome, FAILED, adapter, "one label per image")


def test_novel_classes_need_a_method_that_can_name_them(fit, refused, colours):
    outcome = fit("--data", colours, "--classes", "red,green", "--novel", "--adapter", "tip-adapter")
    refused(outcome, FAILED, "--novel", "tip-adapter", "coop")


def test_novel_needs_two_classes_that_are_left_out(fit, refused, colours):
    outcome = fit("--data", colours, "--classes", "base", "--novel", "--adapter", "coop")
    refused(outcome, USAGE, "--novel", "leaves out 1", "name fewer")


def test_out_that_is_a_file_is_refused_before_anything_is_fitted(fit, refused, colours):
    place = colours / "red" / "00.png"
    refused(fit("--data", colours, "--out", place), USAGE, f"--out {place}", "a file, not a folder")


def test_a_run_made_from_features_cannot_encode_images(fit, vladapt, tmp_path, colours):
    made = fit("--features", features_file(tmp_path / "f.npz"), "--json").json["run"]
    outcome = vladapt("predict", made, colours / "red" / "00.png")
    assert outcome.code == FAILED and "features file" in outcome.error


def test_embed_writes_only_what_fit_reads(vladapt, refused, colours, small_clip_spec, tmp_path):
    base = ["embed", "--domain", "medical", "--backbone", small_clip_spec, "--data", colours]
    refused(vladapt(*base, "--out", "f.csv"), USAGE, "--out f.csv", ".safetensors or .npz")
    below_a_file = vladapt(*base, "--out", colours / "red" / "00.png" / "f.npz")
    refused(below_a_file, FAILED, "--out", "00.png", "File exists", "another --out")


# A full disk


@pytest.fixture(params=["stand-in", "real"])
def full_disk(request, monkeypatch, tmp_path):
    """full_disk(folder): from now on nothing can be finished there. A real small disk where one can be mounted."""
    mounted = []

    def fill(folder: Path) -> None:
        if request.param == "stand-in":
            return monkeypatch.setattr(os, "replace", _replace_but_in(folder))
        if shutil.which("mount") is None:
            pytest.skip("no small disk can be mounted here")
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no small disk can be mounted here")
        mounted.append(folder)
        with suppress(OSError), (folder / "filler").open("wb", buffering=0) as f:
            while True:
                f.write(bytes(1024))
        return None

    yield fill
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def _replace_but_in(folder: Path):
    replace = os.replace

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


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name != "filler" and (path.is_file() or path.name != "out")]
