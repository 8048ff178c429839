"""OWL-ViT trained by mmengine's Runner from its packaged recipes: it learns what it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them

from mmengine.config import Config
from mmengine.runner import Runner

import vladapt

RECIPES = Path(vladapt.__file__).parent / "domains" / "open_vocab" / "recipes"
COLOURS = {"red thing": (230, 30, 30), "green thing": (30, 200, 30), "blue thing": (30, 60, 230)}
SIDE = 32
EPOCHS = 140


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A COCO file of 8 pictures with one or two coloured rectangles each."""
    folder, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    images, boxes = [], []
    for number in range(8):
        picture = rng.integers(90, 140, (SIDE, SIDE, 3)).astype(np.uint8)
        for place in range(1 + number % 2):
            label, width, height = int(rng.integers(3)), *rng.integers(9, 14, 2).tolist()
            left, top = place * 16 + int(rng.integers(0, 16 - width)), int(rng.integers(0, SIDE - height))
            picture[top : top + height, left : left + width] = list(COLOURS.values())[label]
            box = {
                "id": len(boxes) + 1,
                "image_id": number,
                "category_id": label + 1,
                "bbox": [left, top, width, height],
            }
            boxes.append({**box, "area": width * height, "iscrowd": 0})
        Image.fromarray(picture).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(COLOURS)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def configured(recipe, spec, folder, work_dir, **model):
    """The recipe at a size of 32 pixels, on these pictures, tested on them too."""
    config = Config.fromfile(RECIPES / f"{recipe}.py")
    config.model.update(backbone=spec, classes=list(COLOURS), templates="name", train_templates=["name"], **model)
    data = {"type": "vladapt.DetectionDataset", "path": str(folder), "split": "all"}
    loader = config.train_dataloader
    loader.update(num_workers=0, batch_size=8)
    loader.dataset.dataset = {**data, "pipeline": loader.dataset.dataset.pipeline}
    for transform in [*loader.dataset.pipeline, *config.test_pipeline]:
        if transform.type == "vladapt.OWLMosaic":
            transform.size = SIDE - SIDE % 6
        if transform.type == "mmdet.Resize":
            transform.scale = (SIDE, SIDE)
    config.test_dataloader = {
        "batch_size": 8,
        "num_workers": 0,
        "sampler": {"type": "DefaultSampler", "shuffle": False},
        "dataset": {**data, "pipeline": config.test_pipeline, "test_mode": True},
    }
    config.test_cfg, config.test_evaluator = {}, {"type": "vladapt.OpenVocabDetectionMetric"}
    config.default_scope, config.work_dir, config.log_level = "mmdet", str(work_dir), "ERROR"
    config.randomness = {"seed": 0}
    config.default_hooks = {"checkpoint": {"type": "CheckpointHook", "interval": EPOCHS}}
    config.experiment_name = f"{recipe}-{Path(work_dir).name}"
    return config


@pytest.mark.thorough
def test_it_learns_what_it_is_shown(region_towers, pictures, tmp_path):
    config = configured("owlvit_small", region_towers["vit"], pictures, tmp_path)
    mosaic, tiles = config.train_dataloader.dataset.pipeline[0], config.train_dataloader.dataset.dataset.pipeline
    mosaic.update(grids=(1,), probs=(1.0,), size=SIDE)
    config.train_dataloader.dataset.dataset.pipeline = tiles[:2]  # the pictures as they are tested
    config.train_cfg.max_epochs = EPOCHS
    config.optim_wrapper.optimizer.lr = 3e-3
    config.optim_wrapper.paramwise_cfg.custom_keys.tower.lr_mult = 1.0
    config.param_scheduler[1].update(end=EPOCHS, T_max=EPOCHS)
    runner = Runner.from_cfg(config)
    before = runner.test()["open_vocab/AP50"]
    runner.train()
    after = runner.test()["open_vocab/AP50"]
    assert before < 0.1 and after > 0.8


def test_the_published_recipe_trains_both_towers_with_mosaics(region_towers, pictures, tmp_path):
    config = configured("owlvit", region_towers["vit"], pictures, tmp_path)
    config.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 2, "val_interval": 99}
    runner = Runner.from_cfg(config)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    after = runner.model.state_dict()
    changed = {name.partition(".")[0] for name in before if not before[name].equal(after[name])}
    assert {"tower", "text", "class_head", "box_head", "layer_norm"} <= changed
    rates = {round(group["initial_lr"], 9) for group in runner.optim_wrapper.optimizer.param_groups}
    assert rates == {5e-5, 2e-6}
