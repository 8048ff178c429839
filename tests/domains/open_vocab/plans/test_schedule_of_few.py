"""Few images are seen more often: a config's least number of steps, unless the user says how many epochs."""

import pytest
from mmengine import Config

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.core.registry import load_domain
from vladapt.domains.open_vocab.plans.schedule import Schedule, apply_schedule


def scheduled(images, least=100, **options):
    plan = {
        "vladapt": {"least_steps": least},
        "train_dataloader": {"batch_size": 4},
        "train_cfg": {"max_epochs": 10},
        "param_scheduler": [
            {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 20},
            {"type": "PolyLR", "by_epoch": True, "begin": 0, "end": 10},
        ],
    }
    return plan, apply_schedule(plan, Schedule(**options), images)


def test_few_images_train_for_more_epochs_and_the_schedule_with_them():
    plan, notes = scheduled(6)
    assert plan["train_cfg"]["max_epochs"] == 50 and plan["default_hooks"]["checkpoint"]["interval"] == 5
    assert [scheduler["end"] for scheduler in plan["param_scheduler"]] == [20, 50]
    assert notes == ["Few images: 50 epochs in place of 10, to make at least 100 steps (--epochs N decides)."]


@pytest.mark.parametrize(("images", "given"), [(40, {}), (6, {"least": 0}), (6, {"epochs": 10})])
def test_nothing_changes_with_enough_images_or_where_the_user_says_how_long(images, given):
    plan, notes = scheduled(images, **given)
    assert plan["train_cfg"]["max_epochs"] == 10 and notes == [] and "checkpoint" not in plan["default_hooks"]


@pytest.mark.parametrize("name", ["fpn", "upernet", "denseclip", "faster-rcnn", "retinanet", "mask-rcnn"])
def test_the_packaged_recipes_say_so(name):
    assert Config.fromfile(str(load_domain("open-vocab").recipes[name])).vladapt.least_steps >= 150
