"""Configs that come with mmdet and mmseg are found, by Python alone, and never outside their folder."""

import sys

import pytest

from vladapt.core.errors import ConfigError

pytest.importorskip("mmdet")

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.utils import get_installed_path, is_installed

from vladapt.domains.open_vocab.stack.packaged_configs import first_module

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"


@pytest.fixture(autouse=True)
def _no_pkg_resources(monkeypatch):
    """As with setuptools 81 and later."""
    monkeypatch.setitem(sys.modules, "pkg_resources", None)


def config(tmp_path, text):
    file = tmp_path / "config.py"
    file.write_text(text)
    return Config.fromfile(str(file))


def test_a_base_of_each_package(tmp_path):
    found = config(tmp_path, f"_base_ = '{RETINANET}'\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    assert found.model.type == "RetinaNet" and found.model.bbox_head.num_classes == 3
    found = config(tmp_path, "_base_ = 'mmseg::_base_/models/upernet_r50.py'\n")
    assert found.model.decode_head.type == "UPerHead"


def test_a_variable_of_a_base_keeps_its_scope(tmp_path):
    found = config(tmp_path, f"_base_ = '{RETINANET}'\nteacher = _base_.model\n")
    assert found.teacher["_scope_"] == "mmdet"


def test_configs_by_name():
    assert get_config(RETINANET).model.type == "RetinaNet"
    assert get_config("mmseg::_base_/models/upernet_r50.py").model.type == "EncoderDecoder"
    assert "download.openmmlab.com" in get_config(RETINANET, pretrained=True).model_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coc.py", r"did you mean retinanet/retinanet_r50_fpn_1x_coco\.py"),
        ("mmdet::retinnet/retinanet_r50_fpn_1x_coco.py", "did you mean retinanet"),
        ("mmdet::../../__init__.py", "lies outside the configs of mmdet"),
        ("mmpose::resnet/resnet18.py", "'mmpose' is not installed"),
        ("numpy::a/b.py", "installed numpy brings no configs"),
    ],
)
def test_a_base_that_is_not_there_is_told_in_one_line(tmp_path, name, told):
    with pytest.raises(ConfigError, match=told) as caught:
        config(tmp_path, f"_base_ = '{name}'\n")
    assert name in str(caught.value)


def test_read_base_names_what_the_wheel_has_instead(tmp_path):
    text = "from mmengine.config import read_base\nwith read_base():\n    from mmdet.configs.{} import *\n"
    with pytest.raises(ConfigError, match=r"write _base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco\.py'"):
        config(tmp_path, text.format("retinanet.retinanet_r50_fpn_1x_coco"))
    with pytest.raises(ConfigError, match=r"no module mmdet\.configs\.new\.thing"):
        config(tmp_path, text.format("new.thing"))


def test_read_base_of_files_still_works(tmp_path):
    (tmp_path / "part.py").write_text("a = 1\n")
    found = config(
        tmp_path, "from mmengine.config import read_base\nwith read_base():\n    from .part import *\nb = 2\n"
    )
    assert (found.a, found.b) == (1, 2)


def test_packages_are_known_by_distribution_and_by_module():
    assert is_installed("mmsegmentation") and is_installed("mmseg") and not is_installed("no-such-package")
    assert get_installed_path("mmsegmentation") == get_installed_path("mmseg")
    assert first_module("mmsegmentation") == "mmseg"
    with pytest.raises(ModuleNotFoundError):
        get_installed_path("no-such-package")
