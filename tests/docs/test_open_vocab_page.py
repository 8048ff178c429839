"""docs/open-vocab.md: its configs, commands and scripts run as they stand there, made small, without a network."""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")

import vladapt
from vladapt.core.registry.catalogue import recipes

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "open-vocab.md").read_text(encoding="utf-8")
MEASURED = (ROOT / "docs" / "measurements" / "open-vocab.md").read_text(encoding="utf-8")
PYTHON, BEFORE, AFTER, YOLO, ASK, TOWER, UPERNET = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOOLS = Path(find_spec("mmdet").origin).parent / ".mim" / "tools"
SMALL = """
head = model['roi_head']['bbox_head']
head.update(fc_out_channels=8)
model.update(test_cfg=dict(rcnn=dict(score_thr=0.0)))
model.update(backbone=dict(depth=18), neck=dict(in_channels=[64, 128, 256, 512]))
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1)
default_hooks = dict(checkpoint=dict(save_optimizer=False))
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]
train_dataloader['dataset']['pipeline'] = train_pipeline
val_dataloader['dataset']['pipeline'] = [*train_pipeline[:1], *train_pipeline[2:]]
"""


@pytest.fixture
def yard(tmp_path, monkeypatch, small_clip_spec) -> Path:
    """The folder that the page's configs are in, with two classes of things in data/yard."""
    rng = np.random.default_rng(0)
    images = tmp_path / "data" / "yard" / "images"
    images.mkdir(parents=True)
    for split, numbers in {"train": (0, 1, 2), "val": (3, 4)}.items():
        coco: dict = {"images": [], "annotations": []}
        coco["categories"] = [{"id": 1, "name": "raccoon"}, {"id": 2, "name": "bin"}]
        for number in numbers:
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(images / f"{number}.png")
            coco["images"].append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            for label in (1, 2):
                box = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
                coco["annotations"].append(box | {"bbox": [20 * label, 6, 20, 40], "area": 800})
        (images.parent / f"{split}.json").write_text(json.dumps(coco))
    for name, text in {"before.py": BEFORE, "after.py": AFTER}.items():
        (tmp_path / name).write_text(text.replace("embedded", small_clip_spec) + SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(beginning: str) -> list[str]:
    """The page's command lines that begin so, without remarks."""
    return re.findall(rf"^({re.escape(beginning)}[^#\n]*)", PAGE, re.MULTILINE)


def command(*arguments: str) -> dict:
    from typer.testing import CliRunner

    from vladapt.cli import app

    done = CliRunner().invoke(app, [*arguments, "--json", "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def trained_and_asked(model, inputs: dict, names: str, loss: str) -> object:
    """A step of training and a prediction by other names."""
    from vladapt.domains.open_vocab.text_embeddings import set_classes

    losses = model(**model.data_preprocessor(inputs, True), mode="loss")
    assert torch.isfinite(losses[loss])
    sum(value for key, value in losses.items() if "loss" in key and torch.is_tensor(value)).backward()
    set_classes(model, names)
    return model.eval().test_step(inputs)[0]


def test_the_results_are_of_the_commands_they_show(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    path = ROOT / "benchmarks" / "open_vocab.py"
    benchmark = module_from_spec(spec := spec_from_file_location("open_vocab_benchmark", path))
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    part = MEASURED.split("<!-- results")[1].split("<!-- end")[0]
    told = dict(re.findall(r"^\| (\w+) \|.*\| `(vladapt .*)` \|$", part, re.MULTILINE))
    assert told and told == {name: row.command() for name, row in benchmark.ROWS.items()}


def test_a_recipe_is_copied_and_read_as_a_config(tmp_path):
    from typer.testing import CliRunner

    from vladapt.cli import app
    from vladapt.core.recipes.resolve import resolve

    assert "`vladapt show open-vocab/NAME > mine.py`" in PAGE
    (tmp_path / "mine.py").write_text(CliRunner().invoke(app, ["show", "open-vocab/mask-rcnn"]).stdout)
    found = resolve(config=tmp_path / "mine.py")
    assert (found.domain, found.task, found.plan["model"]["type"]) == ("open-vocab", "detection", "MaskRCNN")


def test_the_guide_names_every_recipe_and_nothing_that_is_not_there():
    from vladapt.registry import MODELS

    assert all(name in MODELS for name in re.findall(r"`vladapt\.([A-Z]\w+)", PAGE))
    guide = PAGE.split("## Which method")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z][a-z0-9]*(?:-[a-z0-9]+)*)`", guide)) - {"embedded", "proxy"}
    assert {f"open-vocab/{name}" for name in named} == {n for n in recipes() if n.startswith("open-vocab/")}


def test_the_pages_it_names_are_there():
    for path, _, place in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]*)(#([\w-]+))?\)", PAGE):
        text = PAGE if not path else (ROOT / "docs" / path).read_text(encoding="utf-8")
        headings = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
        assert not place or place in headings


def test_after_differs_from_before_by_the_head_alone():
    changed = [line for line in difflib.ndiff(BEFORE.splitlines(), AFTER.splitlines()) if line[0] in "+-"]
    assert [line.split("=")[0].replace(" ", "") for line in changed] == ["-num_classes", "+type", "+classifier"]


@pytest.mark.thorough
def test_mmdet_s_tools_train_it_and_a_script_asks_for_new_names(yard, monkeypatch, capsys):
    from vladapt.domains.open_vocab.__main__ import main

    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    [line] = lines_of("python -m vladapt.domains.open_vocab tools/train.py after.py --work-dir work --cfg-options")
    words = shlex.split(line.replace("tools/", f"{TOOLS.as_posix()}/"))
    assert words[:3] == ["python", "-m", "vladapt.domains.open_vocab"]
    main(words[3:])
    assert (yard / "work" / "epoch_1.pth").is_file()
    capsys.readouterr()
    exec(compile(ASK.replace("epoch_12", "epoch_1"), "ask.py", "exec"), {})
    said = [line for line in capsys.readouterr().out.splitlines() if line[:2] in ("0.", "1.")]
    assert said and all(re.match(r"\d\.\d\d (raccoon|cat|garden hose) \[", line) for line in said)


@pytest.mark.thorough
def test_vladapt_fits_both_configs_and_new_names_are_asked_of_the_second(yard):
    first, second = lines_of("vladapt fit --domain open-vocab --task detection --config after.py")
    without_network = re.search(r"`--set (plan\.[\w.]+=None)`", PAGE)[1]
    for line in (first.replace("after", "before"), first):
        fitted = command(*shlex.split(line)[1:], "--set", without_network, "--workers", "0")
        assert "AP50" in fitted["adapted"]
    assert "--data data/other" in second
    [ask] = lines_of('vladapt predict RUN pictures/ --classes "raccoon')
    words = shlex.split(ask.replace("RUN", Path(fitted["run"]).as_posix()).replace("pictures/", "data/yard/images"))
    assert len(command(*words[1:])["predictions"]) == 5
    assert (yard / "found" / "predictions.json").is_file()


def test_the_config_on_a_clip_tower(yard, small_clip_spec):
    from mmengine import Config
    from mmengine.structures import InstanceData

    from vladapt.registry import MODELS

    spec = re.search(r"'(open_clip:.*?)'", TOWER)[1]
    (yard / "tower.py").write_text(TOWER.replace(spec, small_clip_spec))
    config = Config.fromfile(str(yard / "tower.py"))
    model = MODELS.build({**config.model, "type": "mmdet.FasterRCNN"})
    found = trained_and_asked(model, boxed(InstanceData), "cat, dog, lake", "loss_cls")
    assert set(found.pred_instances.labels.tolist()) <= {0, 1, 2}


def test_yolo_world_of_rtmdet(tmp_path, small_clip_spec):
    from mmengine import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.structures import InstanceData

    from vladapt.domains.open_vocab.text_embeddings import set_classes
    from vladapt.registry import MODELS

    (tmp_path / "yolo.py").write_text(YOLO.replace("embedded", small_clip_spec))
    model = revert_sync_batchnorm(MODELS.build(Config.fromfile(str(tmp_path / "yolo.py")).model))
    inputs = boxed(InstanceData)
    losses = model.train()(**model.data_preprocessor(inputs, True), mode="loss")
    sum(sum(levels) for levels in losses.values()).backward()
    assert all(torch.isfinite(level) for levels in losses.values() for level in levels)
    set_classes(model, "cat, dog, lake")
    found = model.eval().test_step(inputs)[0].pred_instances
    assert set(found.labels.tolist()) <= {0, 1, 2}


def test_upernet_of_mmseg(tmp_path, small_clip_spec):
    from mmengine import Config
    from mmengine.model import revert_sync_batchnorm
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from vladapt.registry import MODELS

    assert "`pretrained=None` in `model`" in PAGE
    small = """
model['pretrained'] = None
model['backbone'] = dict(depth=18)
model['data_preprocessor'] = dict(size=(64, 64))
model['decode_head'].update(in_channels=[64, 128, 256, 512], channels=8)
model['auxiliary_head'].update(in_channels=256, channels=8)
"""
    (tmp_path / "upernet.py").write_text(UPERNET.replace("embedded", small_clip_spec) + small)
    config = Config.fromfile(str(tmp_path / "upernet.py"))
    model = revert_sync_batchnorm(MODELS.build({**config.model, "type": "mmseg.EncoderDecoder"}))
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)})
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, 64, 64)))
        samples.append(sample)
    inputs = {"inputs": [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8) for _ in samples]}
    found = trained_and_asked(model, {**inputs, "data_samples": samples}, "road, lake, dog, hut", "decode.loss_ce")
    assert found.seg_logits.data.shape == (4, 64, 64)


def test_the_python_of_the_page(yard, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(vladapt, "fit", partial(vladapt.fit, adapter={"epochs": 1}, workers=0, device="cpu"))
    code = PYTHON.replace("./yard", "data/yard").replace("new.jpg", "data/yard/images/0.png")
    exec(compile(code, "page", "exec"), {})
    novel, row = capsys.readouterr().out.splitlines()
    assert 0 <= float(novel) <= 1 and row.startswith("data/yard/images/0.png ")


def boxed(instance_data) -> dict:
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (64, 64), "scale_factor": (1.0, 1.0)})
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 60, 60]])
    sample.gt_instances = instance_data(bboxes=boxes, labels=torch.tensor([0, 1]))
    return {"inputs": [torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)], "data_samples": [sample]}
