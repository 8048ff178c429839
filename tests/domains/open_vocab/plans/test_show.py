"""Packaged recipes as `vladapt show` prints them: configs that read back as they were, and that plans are made of."""

from __future__ import annotations

import pytest
from mmengine import Config

from vladapt.cli import main
from vladapt.domains.open_vocab.domain import OpenVocab

NAMES = sorted(OpenVocab().recipes)


def shown(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["show", *arguments])
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out


@pytest.mark.parametrize("name", NAMES)
def test_a_shown_recipe_reads_back(name, capsys):
    again = Config.fromstring(shown(capsys, f"open-vocab/{name}"), ".py")
    assert again.to_dict() == Config.fromfile(str(OpenVocab().recipes[name])).to_dict()


def test_what_is_set_is_shown(capsys):
    text = shown(capsys, "open-vocab/fpn", "--set", "plan.optim_wrapper.optimizer.lr=0.5")
    assert Config.fromstring(text, ".py").optim_wrapper.optimizer.lr == 0.5


def test_a_part_of_the_default_config_is_set_without_naming_it(boxes):
    from vladapt.core.recipes.resolve import resolve, task_of

    sets = ["plan.optim_wrapper.optimizer.lr=0.5", "plan.model.rpn_head.feat_channels=8"]
    made = resolve(sets=sets, flags={"domain": "open-vocab", "task": "detection"})
    task = task_of(made)
    assert task.backbone_spec(made) == "embedded" and task.read_config(made) is None
    plan = task.plan(made, boxes, None)
    assert plan.optim_wrapper.optimizer.lr == 0.5 and plan.model.rpn_head.feat_channels == 8
    assert plan.model.type == "FasterRCNN"
