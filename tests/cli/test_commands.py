"""The commands as a user meets them: what they print, what they write, and that they agree with one another."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

METHODS = ("zero-shot", "largest-class", "linear-probe", "ape")
COMMANDS = ("fit", "eval", "predict", "compare", "embed", "list", "show", "doctor")
FIT_KEYS = {"run", "domain", "task", "adapter", "backbone", "shots", "seed", "zero_shot", "adapted", "seconds"}
PLAIN = ["--set", "adapter.views=0"]


@pytest.fixture
def base(small_clip_spec, colours) -> list[str]:
    """Domain, backbone and data, as options."""
    return ["--domain", "medical", "--backbone", small_clip_spec, "--data", str(colours)]


# Help and what is imported


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(vladapt, command):
    outcome = vladapt(command, "--help")
    assert outcome.code == 0 and outcome.err == ""
    assert f"Example: vladapt {command}" in " ".join(outcome.out.split())


def test_help_lists_all_commands(vladapt):
    outcome = vladapt("--help")
    assert outcome.code == 0 and all(f" {command} " in outcome.out for command in COMMANDS)


def test_help_and_list_import_no_torch():
    lists = ["list", "adapters"], ["list", "recipes"], ["list", "backbones", "--json"]
    commands = [["--help"], ["fit", "--help"], *lists]
    code = (
        "import sys; from vladapt.cli import main\n"
        f"for arguments in {commands!r}:\n"
        "    try: main(arguments)\n"
        "    except SystemExit as end: assert not end.code\n"
        "    heavy = {'torch', 'numpy', 'mmengine', 'PIL', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "    if '--help' in arguments: heavy |= {'pydantic'} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_m_runs_the_same_commands():
    done = subprocess.run([sys.executable, "-m", "vladapt", "list", "adapters"], capture_output=True, text=True)
    assert done.returncode == 0 and "tip-adapter-f" in done.stdout and done.stderr == ""


# One JSON object


def test_json_of_fit_has_the_promised_keys(fit, colours):
    outcome = fit("--data", colours, "--adapter", "ape", "--seed", 3, "--json")
    made = outcome.json
    assert outcome.code == 0 and set(made) >= FIT_KEYS
    assert (made["domain"], made["task"], made["adapter"]) == ("medical", "classification", "ape")
    assert (made["shots"], made["seed"]) == (2, 3)
    assert 0 <= made["adapted"]["accuracy"] <= 1 and 0 <= made["zero_shot"]["accuracy"] <= 1
    assert made["seconds"] > 0
    files = {path.name for path in Path(made["run"]).iterdir()}
    assert files == {
        *("run.json", "metrics.json", "adapter.safetensors", "calibration.safetensors", "labelled.safetensors"),
        *("linear-probe.safetensors", "log.txt", "report.html"),
    }


def test_every_command_prints_one_json_object(vladapt, run, base, colours):
    image = colours / "red" / "00.png"
    assert vladapt("eval", run, "--json").json["adapted"]["accuracy"] >= 0
    assert vladapt("predict", run, image, "--json").json["predictions"][0]["id"].endswith("00.png")
    written = vladapt("embed", *base, "--out", "f.npz", "--json").json
    assert written.pop("encoded") + written.pop("from_store") == 36
    assert written == {"file": "f.npz", "images": 36, "dim": 24, "skipped": []}
    assert {row["name"] for row in vladapt("list", "domains", "--json").json["domains"]} >= {"medical"}
    assert vladapt("show", "medical/default", "--json").json["shots"] == 16
    findings = vladapt("doctor", "--json").json["findings"]
    assert {"what", "ok", "found", "cure"} == set(findings[0])


def test_json_of_compare_and_its_files(vladapt, base):
    arguments = [
        "--adapters",
        "ape,linear-probe",
        "--shots",
        "1,2",
        "--seeds",
        "1,2",
        "--splits",
        "1",
        "--out",
        "compared",
    ]
    found = vladapt("compare", *base, *arguments, "--json").json
    assert {"rows", "csv", "plot"} <= set(found) and found["refused"] == {}
    cells = {(row["adapter"], row["shots"], row["seed"]) for row in found["rows"]}
    assert cells == {(a, k, s) for a in METHODS for k in (1, 2) for s in (1, 2)}
    with open(found["csv"], newline="") as f:
        table = list(csv.DictReader(f))
    assert list(table[0])[:4] == ["adapter", "shots", "seed", "accuracy"] and len(table) == 16
    assert [float(row["accuracy"]) for row in table] == [row["accuracy"] for row in found["rows"]]
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    assert Path(found["plot"]).with_suffix(".svg").read_text().lstrip().startswith("<?xml")


def test_compare_of_two_data_sets_of_one_name_keeps_them_apart(vladapt, base, colours, class_folders):
    other = class_folders(each=9, name="other/data")
    arguments = ["--adapters", "ape", "--shots", "1", "--seeds", "1", "--splits", "1", "--out", "compared", "--json"]
    found = vladapt("compare", *base, "--data", other, *arguments).json
    assert [row["data"] for row in found["rows"]] == ["data"] * 4 + ["data+"] * 4
    plots = {path.name for path in Path("compared").glob("*.png")}
    assert plots == {"accuracy_over_shots-data.png", "accuracy_over_shots-data+.png"}


def test_compare_gives_the_numbers_of_fit(vladapt, fit, base, colours):
    made = fit("--data", colours, "--adapter", "ape", "--shots", 2, "--seed", 5, "--json").json
    arguments = ["--adapters", "ape", "--shots", "2", "--seeds", "5", "--splits", "1", "--json"]
    rows = vladapt("compare", *base, *arguments).json["rows"]
    assert {row["adapter"]: row["accuracy"] for row in rows} == {
        "zero-shot": made["zero_shot"]["accuracy"],
        "largest-class": made["baselines"]["largest_class"]["accuracy"],
        "linear-probe": made["baselines"]["linear_probe"]["accuracy"],
        "ape": made["adapted"]["accuracy"],
    }


def test_a_method_that_refuses_the_data_is_listed_and_the_others_go_on(vladapt, features_file):
    asked = ["--features", features_file, "--adapters", "coop,ape", "--shots", "2", "--seeds", "1", "--splits", "1"]
    outcome = vladapt("compare", *asked)
    assert outcome.code == 0 and "Refused: coop: " in outcome.out and "text tower" in outcome.out
    found = vladapt("compare", *asked, "--json").json
    assert set(found["refused"]) == {"coop"} and {row["adapter"] for row in found["rows"]} == set(METHODS)


# Words


def test_what_fit_says(fit, colours):
    outcome = fit("--data", colours, "--adapter", "ape", "--shots", 4)
    assert "Chosen: " in outcome.out and "{" not in outcome.out
    run = next(Path("runs").iterdir())
    assert f"Run:    {run}\nReport: {run / 'report.html'}\n" in outcome.out
    assert "12 test images" in outcome.out and "McNemar" in outcome.out
    assert "Note: The test set has 12 images; with fewer than 100 the interval is wide." in outcome.out
    notes = [line for line in outcome.out.splitlines() if line.startswith("Note: ")]
    assert all(not note[6].islower() and note.endswith(".") for note in notes) and len(notes) >= 2
    assert outcome.err.splitlines() == ["Fitting ape on 12 images"]


def test_numbers_chosen_are_rounded_for_reading():
    from vladapt.core.contracts.adapter import FitReport
    from vladapt.core.runs.sections import choice

    chosen = {"beta": 0.1, "alpha": 2.1300000000000003, "epoch": 20}
    said = choice(FitReport("x", chosen, "val (6 images)"))
    assert said == "Chosen: beta 0.1, alpha 2.13, epoch 20 – val (6 images)."
    assert choice(FitReport("x")) == ""


def test_a_fit_from_features_says_nothing_of_encoding(vladapt, features_file):
    outcome = vladapt("fit", "--features", features_file, "--adapter", "ape", "--shots", 4)
    assert outcome.code == 0 and "encoded" not in outcome.out


def test_square_brackets_are_no_markup(vladapt, run, tmp_path, picture):
    Image.fromarray(picture("red", 7)).save(tmp_path / "scan[bold].png")
    assert "scan[bold].png" in vladapt("predict", run, tmp_path / "scan[bold].png").out
    cures = [finding["cure"] for finding in vladapt("doctor", "--json").json["findings"]]
    shown = "".join(vladapt("doctor").out.split())
    assert all("".join(cure.split()) in shown.replace("│", "") or len(cure) > 20 for cure in cures)


def test_a_second_fit_on_the_same_data_encodes_nothing_and_says_so(fit, colours):
    first = fit("--data", colours, *PLAIN, "--adapter", "tip-adapter").out
    second = fit("--data", colours, *PLAIN, "--adapter", "tip-adapter").out
    assert "Features: 24 images encoded, 0 from the store." in first
    assert "Features: 0 images encoded, 24 from the store." in second


def test_debug_shows_where_an_error_came_from(fit):
    outcome = fit("--data", "nowhere", "--debug")
    assert outcome.code == 1 and "Traceback" in outcome.err
    assert outcome.err.strip().splitlines()[-1].startswith("vladapt: --data nowhere")


# Agreement


@pytest.mark.thorough(but=("linear-probe", "coop", "zero-shot"))
@pytest.mark.parametrize(
    "adapter", ["zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t", "coop"]
)
def test_eval_gives_what_fit_reported_and_predict_agrees(fit, vladapt, colours, adapter, monkeypatch, tmp_path):
    short = ["--epochs", 2] if adapter in ("tip-adapter-f", "ape-t", "coop") else []
    made = fit("--data", colours, "--adapter", adapter, "--shots", 4, *short, "--json").json
    run = Path(made["run"]).resolve()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = vladapt("eval", run, "--json").json
    for side in ("zero_shot", "adapted"):
        assert again[side] == pytest.approx(made[side], abs=1e-6)
    tests = json.loads((run / "run.json").read_text())["splits"]["test"]
    rows = vladapt("predict", run, *[colours / name for name in tests], "--json").json["predictions"]
    right = np.mean([row["label"] == Path(name).parent.name for row, name in zip(rows, tests, strict=True)])
    assert right == pytest.approx(made["adapted"]["accuracy"], abs=1e-6)
    assert all(abs(sum(t["probability"] for t in row["top"]) - 1) < 1e-4 for row in rows)


def test_eval_of_other_splits_and_other_data(vladapt, run, class_folders):
    everything = vladapt("eval", run, "--split", "all", "--json").json
    assert everything["test_images"] == 36
    parts = [vladapt("eval", run, "--split", split, "--json").json["test_images"] for split in ("train", "val", "test")]
    assert sum(parts) == 36 and min(parts) > 0
    other = class_folders("blue", "red", each=5, name="other")
    outcome = vladapt("eval", run, "--data", other, "--json")
    assert outcome.json["test_images"] == 10 and outcome.json["data"] == "other"


def test_a_seed_fixes_everything(fit, colours, monkeypatch, tmp_path):
    made, options = [], ["--data", colours, "--adapter", "ape-t", "--epochs", 3, "--shots", 4, "--json"]
    for place in ("a", "b"):
        monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / place))  # nothing remembered
        made.append(fit(*options, "--seed", 7).json)
    kept = [{key: value for key, value in one.items() if key not in ("run", "seconds")} for one in made]
    assert kept[0] == kept[1]
    first, second = (load_file(Path(one["run"]) / "adapter.safetensors") for one in made)
    assert all(np.array_equal(first[key], second[key]) for key in first)
    other = fit(*options, "--seed", 8).json
    splits = [json.loads((Path(one["run"]) / "run.json").read_text())["splits"] for one in (made[0], other)]
    assert splits[0]["support"] != splits[1]["support"] and splits[0]["test"] == splits[1]["test"]


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_embedded_features_fit_like_the_images(fit, vladapt, base, colours, ending):
    """Features are written as the tower gives them; splits go along."""
    made = fit("--data", colours, "--adapter", "tip-adapter", *PLAIN, "--shots", 4, "--json").json
    vladapt("embed", *base, "--out", f"f.{ending}")
    arrays = np.load("f.npz") if ending == "npz" else load_file("f.safetensors")
    norms = np.linalg.norm(arrays["image_features"], axis=1)
    assert np.abs(norms - 1).max() > 1e-2
    outcome = vladapt("fit", "--features", f"f.{ending}", "--adapter", "tip-adapter", *PLAIN, "--shots", 4, "--json")
    assert outcome.json["zero_shot"] == pytest.approx(made["zero_shot"], abs=1e-5)
    assert outcome.json["adapted"] == pytest.approx(made["adapted"], abs=1e-5)
    again = vladapt("eval", outcome.json["run"], "--json").json
    assert again["adapted"] == pytest.approx(made["adapted"], abs=1e-5)
    splits = [json.loads((Path(run["run"]) / "run.json").read_text())["splits"] for run in (made, outcome.json)]
    assert splits[0] == splits[1]


def test_features_of_another_backbone_are_not_mixed(vladapt, base, tmp_path):
    vladapt("embed", *base, "--out", "f.npz")
    arrays = dict(np.load("f.npz"))
    np.savez("g.npz", **{**arrays, "backbone": np.array("another")})
    run = vladapt("fit", "--features", "f.npz", "--adapter", "ape", "--shots", 4, "--json").json["run"]
    outcome = vladapt("eval", run, "--features", "g.npz")
    assert outcome.code == 1 and "--features g.npz: made by backbone another" in outcome.error


def test_embed_of_loose_images(vladapt, base, colours):
    written = vladapt("embed", colours / "red", colours / "blue" / "03.png", *base[:4], "--out", "f.npz", "--json").json
    assert written["images"] == 13
    arrays = np.load("f.npz")
    assert arrays["image_features"].shape == (13, 24) and "labels" not in arrays.files


# Recipes and options


def test_options_win_over_set_over_the_recipe_file(fit, colours, tmp_path):
    adapter = "dict(name='tip-adapter', alpha=0.5, beta=2.0, views=0)"
    (tmp_path / "mine.py").write_text(f"shots = 3\nseed = 4\nadapter = {adapter}\n")
    arguments = ["--data", colours, "--config", "mine.py", "--adapter", "tip-adapter"]
    made = fit(*arguments, "--set", "adapter.alpha=0.7", "--set", "seed=9", "--seed", 5, "--json").json
    ran = json.loads((Path(made["run"]) / "run.json").read_text())
    assert (ran["seed"], ran["shots"]) == (5, 2)  # named flags
    assert ran["adapter_options"]["alpha"] == 0.7  # --set
    assert ran["adapter_options"]["beta"] == 2.0  # the file
    assert ran["recipe"]["adapter"] == {"name": "tip-adapter", "alpha": 0.7, "beta": 2.0, "views": 0}


def test_a_packaged_recipe_and_a_file_that_wins_over_it(vladapt, small_clip_spec, colours, tmp_path):
    (tmp_path / "mine.json").write_text('{"adapter": "zero-shot"}')
    base = ["fit", "--recipe", "medical/chest-xray", "--data", colours, "--backbone", small_clip_spec, "--json"]
    made = vladapt(*base, "--shots", 2, "--epochs", 1).json
    assert (made["adapter"], made["domain"]) == ("tip-adapter-f", "medical")
    templates = json.loads((Path(made["run"]) / "run.json").read_text())["templates"]
    assert "a chest x-ray of {}." in templates
    assert vladapt(*base, "--config", "mine.json").json["adapter"] == "zero-shot"


@pytest.mark.parametrize(
    ("given", "names"),
    [("base", ["blue", "green"]), ("red,blue", ["red", "blue"]), ("all", ["blue", "green", "red"])],
)
def test_only_some_classes(fit, colours, given, names):
    made = fit("--data", colours, "--classes", given, "--json").json
    ran = json.loads((Path(made["run"]) / "run.json").read_text())
    assert ran["class_names"] == names and made["test_images"] == 4 * len(names)


def test_classes_from_a_file_new_classes_and_novel_ones(fit, class_folders, tmp_path, picture):
    folder = class_folders()
    for name, colour in {"wine": "red", "lime": "green"}.items():
        (folder / name).mkdir()
        for i in range(12):
            Image.fromarray(picture(colour, 100 + i) // 2).save(folder / name / f"{i:02d}.png")
    (tmp_path / "names.txt").write_text("red\n\nblue\n")
    named = fit("--data", folder, "--classes", tmp_path / "names.txt", "--json").json
    assert json.loads((Path(named["run"]) / "run.json").read_text())["class_names"] == ["red", "blue"]
    new = fit("--data", folder, "--classes", "new", "--json").json
    assert json.loads((Path(new["run"]) / "run.json").read_text())["class_names"] == ["red", "wine"]
    coop = ["--adapter", "coop", "--epochs", 1, "--classes", "base", "--novel"]
    made = fit("--data", folder, *coop, "--json").json
    assert set(made["novel"]) >= {"zero_shot", "adapted"}
    base, other = made["adapted"]["accuracy"], made["novel"]["adapted"]["accuracy"]
    mean = 0.0 if base + other == 0 else 2 * base * other / (base + other)
    assert made["novel"]["adapted"]["harmonic_mean"] == pytest.approx(mean)


@pytest.fixture
def features_file(tmp_path) -> Path:
    """60 rows of three classes in 8 dimensions."""
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    features = rng.normal(size=(60, 8)) + 3 * np.eye(8)[labels]
    names = np.array(["red", "green", "blue"])
    path = tmp_path / "rows.npz"
    np.savez(path, image_features=features.astype("f4"), labels=labels, text_features=np.eye(8)[:3], class_names=names)
    return path
