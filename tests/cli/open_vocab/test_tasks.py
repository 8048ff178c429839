"""What detection and segmentation by names keep, by the checks of `vladapt.testing`, on a config of a user's."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmengine import Config

from vladapt import load_domain
from vladapt.core.recipes.resolve import task_in
from vladapt.testing import check_task


@pytest.fixture(scope="module")
def data(squares):
    return squares("few", train=4, val=1, test=2)


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_the_contract(name, tiny, data, small_clip_spec):
    domain = load_domain("open-vocab")
    plan = Config.fromfile(tiny(name, "\ntrain_cfg['max_epochs'] = 1\n")).to_dict()
    images = sorted((data / "images").glob("*.png"))[:2]
    check_task(type(task_in(domain, name)), domain, images=images, plan=plan, data=str(data), backbone=small_clip_spec)
