"""Whatever is wrong with what the user gives: one line that names it and says what to do, and nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vladapt
from vladapt import ConfigError, DataError, evaluate
from vladapt.cli import COMMAND_GROUPS
from vladapt.core.commands.options import PLACES, with_flags
from vladapt.core.contracts.recipe import check_writable

FAILED, USAGE = 1, 2
COMMANDS = [command for group in COMMAND_GROUPS for command in group.COMMANDS.values()]


# What is given as data


def test_no_such_path(fit, refused):
    refused(fit("--data", "nowhere"), FAILED, "--data nowhere", "no such file or folder", "give the path")


def test_a_second_data_set_is_not_forgotten_in_silence(fit, refused, vladapt, colours, tmp_path):
    told = "takes one data set", "give one"
    refused(fit("--data", tmp_path, "--data", colours), USAGE, *told)
    refused(fit("--data", colours, f"--data={tmp_path}"), USAGE, *told)
    refused(fit("--data", "nowhere", "--data", colours), FAILED, "nowhere", "no such file or folder", "give the path")
    pretrain = vladapt("pretrain", "--data", "a.csv", "--data", "b.csv", "--out", "model", "--loss", "clip")
    assert pretrain.code == FAILED and "--data a.csv: no such file or folder" in pretrain.error
    assert not (tmp_path / "model").exists()


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


@pytest.mark.parametrize(
    ("number", "file", "words"),
    [
        (0, 1, ["image id 0 stands for 'red/00.png' and for 'red/01.png'", "give each image its own id"]),
        (9, 0, ["two samples are called", "#box1'; list each once, or name them apart"]),
    ],
)
def test_an_image_that_is_listed_twice(fit, refused, colours, number, file, words):
    """One id for two files, and two ids for one file: its boxes would have one name, and one of them be lost."""
    names = [f"{name}/{i:02d}.png" for name in ("red", "green") for i in range(4)]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    boxes = [{"image_id": n, "category_id": n // 4, "bbox": [2, 2, 18, 18], "iscrowd": 0} for n in range(8)]
    classes = [{"id": number, "name": name} for number, name in enumerate(("red", "green"))]
    content = {"images": [*images, {"id": number, "file_name": names[file]}], "categories": classes}
    content["annotations"] = [*boxes, {**boxes[0], "image_id": number}]
    (colours / "instances.json").write_text(json.dumps(content))
    outcome = fit("--data", colours / "instances.json")
    refused(outcome, FAILED, f"instances.json: {words[0]}", *words[1:])


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
    refused(vladapt("list", "adaptors"), USAGE, "adaptors", "did you mean adapters")
    refused(vladapt("show", "medical/defualt"), USAGE, "defualt", "did you mean medical/default")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fit", "--task="], "--task: the value is empty; give one, or omit the option"),
        (["fit", "--set", ""], "--set: the value is empty"),
        (["compare", "--adapters", " "], "--adapters: the value is empty"),
        (["predict", "", "x.png"], "RUN: the value is empty; give one"),
        (["predict", "run", "x.png", ""], "IMAGES: the value is empty; give one"),
        (["serve", ""], "RUN|EXPORT: the value is empty; give one"),
        (["localize", "x.tif", "--out", "x.png", "--text", ""], "--text: the value is empty"),
    ],
)
def test_an_empty_text_is_refused(vladapt, refused, arguments, told):
    """As of `--task="$TASK"` in a script that has not set it: another task than the one meant would be done."""
    refused(vladapt(*arguments), USAGE, told)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_text_is_refused_by_every_option_of_every_command(command):
    called = with_flags(command, [])
    texts = (str, str | None, list[str], list[str] | None)
    names = [name for name, hint in typing.get_type_hints(called).items() if hint in texts]
    assert names
    for name in names:
        with pytest.raises(ConfigError, match="the value is empty; give one"):
            called(**{name: ""})


def test_an_empty_text_in_a_file_or_from_python_is_refused(fit, refused, colours, tmp_path):
    (tmp_path / "mine.py").write_text("task = ''\n")
    refused(fit("--data", colours, "--config", "mine.py"), USAGE, "--task: the value is empty")
    refused(fit("--data", colours, "--set", "generic="), USAGE, "--generic: the value is empty")
    run = fit("--data", colours, "--json").json["run"]
    with pytest.raises(ConfigError, match="--data: the value is empty"):
        evaluate(run, data="")


@pytest.mark.parametrize("shots", ["-3", "-1", "many", "1.5"])
def test_shots_that_are_no_number_of_images(fit, refused, colours, shots):
    refused(fit("--data", colours, "--shots", shots), USAGE, "--shots", shots)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shots", "-2"),
        ("shots", "two"),
        ("shots", "True"),
        ("seed", "-1"),
        ("split_seed", "x"),
        ("batch_size", "0"),
        ("workers", "-1"),
        ("image_size", "0"),
        ("novel", "perhaps"),
        ("adapter.parts", "-3"),
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
    refused(fit("--data", colours, "--config", "other.py"), USAGE, "other.py", "'shotss'", "did you mean shots")
    (tmp_path / "words.json").write_text("[1, 2]")
    refused(fit("--data", colours, "--config", "words.json"), USAGE, "--config words.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapters", "ape,tipp-adapter"], ["'tipp-adapter'", "did you mean tip-adapter"]),
        (["--adapters", "ape", "--shots", "1,x"], ["--shots 1,x", "whole numbers"]),
        (["--adapters", "ape", "--shots", "-1,4"], ["--shots -1,4", "0 or more"]),
        (["--adapters", "ape", "--shots", ","], ["--shots", "whole numbers"]),
        (["--adapters", "ape", "--seeds", "-1"], ["--seeds -1", "of 0 or more"]),
        (["--adapters", "ape", "--seeds", ","], ["--seeds", "whole numbers"]),
        (["--adapters", ","], ["--adapters"]),
        ([], ["--adapters"]),
    ],
)
def test_compare_refuses_what_fit_would(vladapt, refused, small_clip_spec, colours, arguments, words):
    base = ["compare", "--domain", "medical", "--backbone", small_clip_spec, "--data", colours]
    refused(vladapt(*base, *arguments), USAGE, *words)


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


@pytest.mark.parametrize("command", [["embed", "--out", "f.npz"], ["select", "--out", "todo.csv"]])
def test_a_task_of_pairs_is_not_for_commands_that_read_images(vladapt, refused, colours, command):
    told = vladapt(*command, "--data", colours, "--task", "retrieval")
    refused(told, USAGE, "--task retrieval", "it is of pairs", "omit --task")


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
    refused(below_a_file, FAILED, "--out", "00.png", "Not a directory", "another --out")


# Where nothing can be written


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be_written_is_refused_before_a_command_begins(command, name, monkeypatch, tmp_path):
    called = with_flags(command, [])
    hint = typing.get_type_hints(called).get(name)
    monkeypatch.setattr(os, "access", lambda path, mode: not tmp_path.is_relative_to(path))
    places = {"File name too long": tmp_path / ("x" * 300), "Permission denied": tmp_path / "new" / "x"}
    for why, place in places.items() if hint else ():
        with pytest.raises(DataError, match=rf"--{name} .*cannot be written there \({why}\); give another --{name}"):
            called(**{name: [str(place)] if hint == list[str] | None else str(place)})


def test_runs_that_cannot_be_written_where_nothing_is_named(fit, refused, colours, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    refused(fit("--data", colours), FAILED, "--out runs: cannot be written there", "give another --out")
    with pytest.raises(DataError, match="--out runs: cannot be written there"):
        vladapt.fit(data=str(colours), adapter="zero-shot")


def test_a_disk_that_is_read_only_is_told_as_such(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(DataError, match="Read-only file system"):
        check_writable(tmp_path / "new")


def test_a_file_is_replaced_also_through_a_link(tmp_path):
    (tmp_path / "old.csv").touch()
    (tmp_path / "link.csv").symlink_to(tmp_path / "old.csv")
    (tmp_path / "new.csv").symlink_to(tmp_path / "nowhere" / "new.csv")
    for name in ("old.csv", "link.csv", "new.csv", "deep/er/new.csv"):
        check_writable(tmp_path / name)
    with pytest.raises(DataError, match="Not a directory"):
        check_writable(tmp_path / "link.csv" / "new.csv")


def test_a_name_of_data_that_is_too_long_says_so(fit, refused):
    refused(fit("--data", "x" * 300), FAILED, "File name too long", "give a shorter one")
