"""The packaged configs of YOLO-World and Mask2Former: fitted on a few drawn shapes, scored, asked for other names."""

from __future__ import annotations

import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import vladapt
from vladapt.core.recipes.resolve import resolve
from vladapt.domains.open_vocab import shapes as drawn


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The sample's folder, of nine images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(drawn, "COUNTS", {"train": 6, "val": 1, "test": 2})
        yield drawn.shapes_folder()


@pytest.mark.thorough(but=("yolo",))
@pytest.mark.parametrize(
    ("name", "task", "metrics"),
    [
        ("yolo-world", "detection", {"AP", "AP50"}),
        ("mask2former-panoptic", "detection", {"AP", "mask_AP", "PQ", "SQ", "RQ"}),
        ("mask2former", "segmentation", {"mIoU", "pixel_accuracy"}),
    ],
)
def test_a_recipe_is_fitted_scored_and_asked(shapes, small_clip_spec, tmp_path, monkeypatch, name, task, metrics):
    monkeypatch.chdir(tmp_path)
    flags = {"domain": "open-vocab", "task": task, "data.path": str(shapes), "backbone": small_clip_spec}
    flags |= {"adapter.epochs": 1, "workers": 0, "device": "cpu"}
    fitted = vladapt.fit(resolve(recipe=f"open-vocab/{name}", flags=flags))
    scores = fitted.metrics["adapted"]
    assert metrics <= set(scores)
    assert all(0 <= scores[metric] <= 1 for metric in metrics)
    found = vladapt.predict(fitted.run, [str(shapes / "images" / "shapes-0007.png")], classes="red star").rows()
    assert len(found) == 1
