"""Which packaged config of a folder is tried."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from stock_checks.choice import by_size, chosen_folders, folders, in_order_of_size

from vladapt.core.errors import ConfigError

SMALL_TO_LARGE = ["a_b0_schedule", "a_r18_1x", "a_swin-t_1x", "a_s_schedule", "a_1x", "a_r50_1x", "a_r101_1x", "a_x_1x"]


@given(st.permutations(SMALL_TO_LARGE))
def test_the_size_that_a_name_tells_comes_first_then_its_length(names):
    ordered = [file.stem for file in in_order_of_size(Path(f"{name}.py") for name in names)]
    assert ordered == SMALL_TO_LARGE


def test_every_folder_with_configs_is_one_of_them():
    """168 in mmdet 3.3 and mmsegmentation 1.2; parts that configs share are none."""
    there = folders()
    assert len(there) == len(set(there)) == 168
    assert not any("_base_" in folder for folder in there)
    assert by_size("mmdet/faster_rcnn")[0].name == "faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py"
    assert by_size("mmseg/segformer")[0].stem.startswith("segformer_mit-b0")


def test_folders_are_asked_for_by_package_by_name_or_by_both():
    assert chosen_folders(["hrnet"]) == ["mmdet/hrnet", "mmseg/hrnet"]
    assert chosen_folders(["mmseg/hrnet"]) == ["mmseg/hrnet"]
    assert set(chosen_folders(["mmdet"])) | set(chosen_folders(["mmseg"])) == set(chosen_folders([])) == set(folders())
    with pytest.raises(ConfigError, match="no folder of packaged configs 'mmdet/hrnett'; did you mean mmdet/hrnet, "):
        chosen_folders(["mmseg/fcn", "mmdet/hrnett"])
