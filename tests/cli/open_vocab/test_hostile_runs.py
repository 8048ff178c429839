"""Run folders of somebody else: whatever run.json names, and wherever, nothing of it is run and one line says what."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FAILED = 1
CANARY = "canary"
WORDS = ("classes", "templates", "notes", "novel", "described")
"""Keys below which any word may stand, and nothing is built."""


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        import os

        return (os.mkdir, (str(self.mark),))


@pytest.fixture(scope="module")
def data(squares):
    return squares("squares", 4, 2, 2)


@pytest.fixture(scope="module")
def run(command, tiny, data, place) -> Path:
    made = command("fit", "--config", tiny("detection"), "--data", data, "--epochs", 1, "--json").json
    return (place / made["run"]).resolve()


@pytest.fixture(scope="module")
def evil(place) -> Path:
    """A folder of files that make the canary's folder when they are loaded: pickles, modules and configs."""
    folder = place / "evil"
    folder.mkdir()
    mark = place / CANARY
    for suffix in ("pkl", "pth"):
        (folder / f"w.{suffix}").write_bytes(pickle.dumps(Trap(mark)))
    code = f"__import__('os').mkdir({str(mark)!r})\n"
    (folder / "config.py").write_text(code)
    (folder / "w.yaml").write_text(f"!!python/object/apply:os.mkdir [{mark!s}]\n")
    (place / "evilscope").mkdir()
    (place / "evilscope" / "registry.py").write_text(code)
    return folder


def hostile_parts(place: Path) -> list[Any]:
    """What stands in place of some part of a config."""
    mark, evil = str(place / CANARY), str(place / "evil")
    return [
        {"type": "os.mkdir", "path": mark},
        {"type": "os.system", "command": f"mkdir {mark}"},
        {"type": "subprocess.run", "args": ["mkdir", mark]},
        {"type": "builtins.exec", "object": f"import os; os.mkdir({mark!r})"},
        {"type": "mmengine.utils.mkdir_or_exist", "dir_name": mark},
        {"type": "mmengine.fileio.load", "file": f"{evil}/w.pkl"},
        {"type": "mmdet.mmengine.Config.fromfile", "filename": f"{evil}/config.py"},
        {"type": f"__import__('os').mkdir({mark!r})"},
        {"type": ["os.mkdir"], "path": mark},
        {"type": {"__tuple__": ["os.mkdir"]}, "path": mark},
        {"_scope_": "evilscope", "type": "Anything"},
        {"type": "evilscope.Anything"},
        {"type": "KnowledgeDistillationSingleStageDetector", "teacher_config": f"{evil}/config.py"},
        {"type": "CameraMotionCompensation", "warp_mode": f"__import__('os').mkdir({mark!r})"},
        {"type": "mmseg.CrossEntropyLoss", "class_weight": f"{evil}/w.pkl"},
        {"type": "mmseg.CrossEntropyLoss", "class_weight": f"{evil}/w.yaml"},
        {"type": "mmseg.TIMMBackbone", "model_name": "resnet18", "checkpoint_path": f"{evil}/w.pth"},
        {"type": "mmdet.ResNet", "depth": 18, "init_cfg": {"type": "Pretrained", "checkpoint": f"{evil}/w.pth"}},
        {"__float__": "code"},
    ]


def hostile_options(place: Path) -> list[tuple[str, Any]]:
    """Options that some part of mmdet, mmseg or mmengine understands."""
    evil = str(place / "evil")
    return [
        ("type", "os.getcwd"),
        ("type", 7),
        ("init_cfg", {"type": "Pretrained", "checkpoint": f"{evil}/w.pth"}),
        ("init_cfg", [{"type": "Constant", "val": 0}]),
        ("pretrained", f"{evil}/w.pth"),
        ("pretrained", "torchvision://resnet50"),
        ("load_from", f"{evil}/w.pth"),
        ("custom_imports", {"imports": ["evilscope.registry"]}),
        ("_scope_", "evilscope"),
        ("_base_", f"{evil}/config.py"),
        ("_delete_", True),
        ("backend_args", {"backend": "petrel"}),
        ("file_client_args", {"backend": "http"}),
        ("checkpoint", f"{evil}/w.pth"),
        ("teacher_ckpt", f"{evil}/w.pth"),
        ("class_weight", f"{evil}/w.pkl"),
        ("anything", "https://example.org/weights"),
        ("anything", "{{_base_.model}}"),
        ("anything", 10**30),
        ("nms", {"type": "__import__('os').getcwd()"}),
    ]


def places_in(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all dicts and lists in a nest."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        return []
    return [path, *(found for key, each in inner for found in places_in(each, (*path, key)))]


def at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


@st.composite
def mutations(draw, info: dict, place: Path):
    """run.json with one hostile node, and whether it stands where nothing but words does."""
    changed = copy.deepcopy(info)
    root = draw(st.sampled_from([("plan", "model"), ("plan", "vladapt")]))
    path = root + draw(st.sampled_from(places_in(at(changed, root))))
    node = at(changed, path)
    if isinstance(node, list):
        key: Any = draw(st.integers(0, len(node)))
        node.insert(key, draw(st.sampled_from(hostile_parts(place))))
    elif node and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(node)))
        node[key] = draw(st.sampled_from(hostile_parts(place)))
    else:
        key, value = draw(st.sampled_from(hostile_options(place)))
        node[key] = value
    return changed, any(word in WORDS for word in (*path, key))


def test_a_hostile_node_anywhere_in_the_model_or_its_transforms_is_refused(command, run, evil, place, tmp_path_factory):
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    image = place / "squares" / "images" / "01.png"
    other = shutil.copytree(run, tmp_path_factory.mktemp("runs") / "other")

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(mutations(info, place))
    def check(mutation):
        changed, of_words = mutation
        (other / "run.json").write_text(json.dumps(changed), encoding="utf-8")
        outcome = command("predict", other, image)
        assert not (place / CANARY).exists()
        if not of_words:
            assert outcome.code == FAILED and str(other / "run.json") in outcome.error, outcome
            assert len(outcome.error) < 700 and "plan" in outcome.error

    check()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({("plan", "default_scope"): "evilscope"}, "plan.default_scope is 'evilscope'"),
        ({("recipe", "plan", "default_scope"): "evilscope"}, "recipe.plan.default_scope"),
        ({("plan", "custom_imports"): {"imports": ["evilscope.registry"]}}, "custom_imports"),
        ({("plan",): [1]}, "plan"),
        ({("plan", "model"): 3}, "plan holds no model"),
        (
            {("recipe", "plan", "test_dataloader", "dataset"): {"type": "os.mkdir", "path": CANARY}},
            "recipe.plan.test_dataloader.dataset.type is 'os.mkdir'",
        ),
        (
            {("recipe", "plan", "train_dataloader", "dataset"): {"type": "CocoDataset", "ann_file": "evil/w.pkl"}},
            "train_dataloader.dataset.ann_file",
        ),
    ],
)
@pytest.mark.parametrize("use", ["predict", "eval"])
def test_scopes_imports_and_data_sets_of_a_run_are_refused(command, run, evil, place, tmp_path, use, changes, says):
    other = shutil.copytree(run, tmp_path / "other")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    for path, value in changes.items():
        at(info, path[:-1])[path[-1]] = value
    info["recipe"]["data"] = {"path": "sample"}
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    arguments = [place / "squares" / "images" / "01.png"] if use == "predict" else []
    outcome = command(use, other, *arguments)
    assert outcome.code == FAILED and says in outcome.error and "run.json" in outcome.error
    assert not (place / CANARY).exists()


@pytest.mark.parametrize(
    "dataset",
    [
        {"type": "RefCocoDataset", "split_file": "evil/split.p"},
        {"type": "mmdet.RefCocoDataset", "split_file": "evil/split"},
        {"type": "OpenImagesDataset", "hierarchy_file": "evil/split", "meta_file": "evil/split"},
        {"type": "OpenImagesChallengeDataset", "hierarchy_file": "evil/split", "label_file": "evil/names.txt"},
        {"type": "CrowdHumanDataset", "data_root": "evil/", "extra_ann_file": "evil/split"},
    ],
)
def test_data_sets_that_read_pickles_of_any_name_are_refused(command, run, evil, place, tmp_path, dataset):
    for name in ("split", "split.p"):
        (evil / name).write_bytes(pickle.dumps(Trap(place / CANARY)))
    other = with_data_set(run, tmp_path / "other", {"ann_file": "squares/train.json", **dataset})
    outcome = command("eval", other)
    assert outcome.code != 0 and not (place / CANARY).exists(), outcome


@pytest.mark.parametrize("name", ["/dev/zero", "evil/pipe"])
def test_a_device_or_a_pipe_as_annotations_is_one_line(command, run, evil, place, tmp_path, name):
    if not (evil / "pipe").exists():
        os.mkfifo(evil / "pipe")
    root, _, file = name.rpartition("/")
    other = with_data_set(run, tmp_path / "other", {"type": "CocoDataset", "data_root": f"{root}/", "ann_file": file})
    outcome = command("eval", other)
    assert outcome.code == FAILED and f"{root}/{file}: cannot be read (a " in outcome.error, outcome


def with_data_set(run: Path, other: Path, dataset: dict[str, Any]) -> Path:
    """A copy of a run that was fitted on the data set of its config."""
    shutil.copytree(run, other)
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    info["data"]["path"], info["recipe"]["data"] = "sample", {"path": "sample"}
    loader = {"dataset": {**dataset, "metainfo": {"classes": ["square"]}}}
    info["recipe"]["plan"].update({f"{split}_dataloader": loader for split in ("train", "val", "test")})
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    return other


def test_no_pickle_is_opened_while_the_parts_of_a_run_are_built(place, evil):
    import numpy as np
    from mmengine.fileio import load

    from vladapt.core.tasks.config_training.registered import registered_only

    np.save(evil / "objects.npy", np.array([Trap(place / CANARY)], dtype=object), allow_pickle=True)
    with registered_only():
        for read in (
            lambda: load(str(evil / "w.pkl")),
            lambda: load(str(evil / "w.pth"), file_format="pkl"),
            lambda: load(str(evil / "w.yaml")),
            lambda: np.load(evil / "objects.npy", allow_pickle=True),
        ):
            with pytest.raises((TypeError, ValueError)):
                read()
        assert not (place / CANARY).exists()
    load(str(evil / "w.pkl"))  # afterwards as before
    (place / CANARY).rmdir()


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", None), ("classes", [1, 2]), ("test_pipeline", "Resize"), ("test_pipeline", ["Resize"])],
)
def test_damaged_words_and_transforms_of_a_run_are_one_line(command, run, place, tmp_path, key, value):
    other = shutil.copytree(run, tmp_path / "other")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    info["plan"]["vladapt"][key] = value
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    outcome = command("predict", other, place / "squares" / "images" / "01.png")
    assert outcome.code == FAILED and f"plan.vladapt.{key} is damaged" in outcome.error


def test_transforms_of_a_run_that_make_no_inputs_are_one_line(command, run, place, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    info["plan"]["vladapt"]["test_pipeline"] = info["plan"]["vladapt"]["test_pipeline"][:1]
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    outcome = command("predict", other, place / "squares" / "images" / "01.png")
    assert outcome.code == FAILED and f"{other}: its model cannot be run" in outcome.error


@pytest.mark.parametrize("width", [10**5, 10**9])
def test_a_model_that_would_fill_the_memory_is_refused(command, run, place, tmp_path, width):
    other = shutil.copytree(run, tmp_path / "other")
    info = json.loads((run / "run.json").read_text(encoding="utf-8"))
    info["plan"]["model"]["bbox_head"]["feat_channels"] = width
    (other / "run.json").write_text(json.dumps(info), encoding="utf-8")
    outcome = command("predict", other, place / "squares" / "images" / "01.png")
    assert outcome.code == FAILED and str(other) in outcome.error


def test_what_was_not_changed_is_still_read(command, run, data, place):
    assert command("predict", run, place / "squares" / "images" / "01.png").code == 0
    assert command("eval", run).code == 0


def test_the_traps_work(place, evil, monkeypatch):
    """Each of them would spring if it were reached."""
    from mmengine import Config
    from mmengine.registry import MODELS

    mark = place / CANARY
    springs = [
        lambda: MODELS.build({"type": "os.mkdir", "path": str(mark)}),
        lambda: pickle.loads((evil / "w.pkl").read_bytes()),
        lambda: Config.fromfile(evil / "config.py"),
    ]
    for spring in springs:
        spring()
        assert mark.exists()
        mark.rmdir()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("nan", r"adapter.safetensors: bbox_head\S+ holds NaN"),
        ("infinity", r"adapter.safetensors: bbox_head\S+ holds infinity"),
        ("shape", r"adapter.safetensors: does not fit the run's model \(size mismatch for bbox_head"),
        ("dtype", r"adapter.safetensors: bbox_head\S+ is torch.float64"),
        ("missing", r"adapter.safetensors: does not fit the run's model \(Missing key"),
        ("more", r"adapter.safetensors: does not fit the run's model \(Unexpected key"),
    ],
)
def test_weights_that_are_no_numbers_or_not_the_models_are_refused(
    command, run, without_digests, place, tmp_path, damage, says
):
    import re

    from safetensors.torch import load_file, save_file

    other = without_digests(shutil.copytree(run, tmp_path / "other"))
    tensors = load_file(other / "adapter.safetensors")
    name = next(name for name, value in tensors.items() if name.startswith("bbox_head") and value.ndim == 4)
    value = tensors[name]
    if damage in ("nan", "infinity"):
        value.view(-1)[3] = float(damage)
    elif damage == "more":
        tensors["another"] = value.clone()
    elif damage == "missing":
        del tensors[name]
    else:
        tensors[name] = value.double() if damage == "dtype" else value[:-1].contiguous()
    save_file(tensors, other / "adapter.safetensors")
    outcome = command("predict", other, place / "squares" / "images" / "01.png")
    assert outcome.code == FAILED and re.search(says, outcome.error), outcome
