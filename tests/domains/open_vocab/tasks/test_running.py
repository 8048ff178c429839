"""Images through a model: in order, in groups of one shape, each as it would be seen alone."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from vladapt import DataError
from vladapt.domains.open_vocab.inference import running
from vladapt.domains.open_vocab.inference.running import outcomes

WIDE, HIGH = (20, 30), (30, 20)


def test_images_go_in_order_and_neighbours_of_one_shape_together(make_images, answering):
    data = make_images([WIDE] * 3 + [HIGH] * 2 + [WIDE], ["a"])
    model, told = answering(lambda number: number, ["a"]), []
    found = list(outcomes(model, data, data.items, lambda done, total: told.append((done, total))))
    assert [answer for _, answer in found] == list(range(6)) and [item for item, _ in found] == data.items
    assert model.batches == [[WIDE] * 3, [HIGH] * 2, [WIDE]]
    assert told == [(3, 6), (5, 6), (6, 6)]


def test_no_more_than_a_few_images_are_in_memory_at_once(make_images, answering, monkeypatch):
    monkeypatch.setattr(running, "AHEAD", 5)
    monkeypatch.setattr(running, "AT_ONCE", 2)
    data = make_images([WIDE] * 12, ["a"])
    loaded, model, sample = [], answering(lambda number: number, ["a"]), running._sample
    monkeypatch.setattr(running, "_sample", lambda item, *more: loaded.append(item) or sample(item, *more))
    found = outcomes(model, data, data.items)
    next(found)
    assert len(loaded) == 5 and len(model.batches) == 1
    assert [answer for _, answer in found] == list(range(1, 12))
    assert [len(batch) for batch in model.batches] == [2, 2, 1, 2, 2, 1, 2]


def test_no_image_gives_nothing(make_images, answering):
    data = make_images([WIDE], ["a"])
    assert list(outcomes(answering(None, ["a"]), data, [])) == []


def test_an_image_that_cannot_be_decoded_says_which(make_images, answering):
    data = make_images([WIDE] * 2, ["a"])
    data.items[1].source.write_bytes(data.items[1].source.read_bytes()[:60])
    with pytest.raises(DataError, match=r"01\.png"):
        list(outcomes(answering(lambda n: n, ["a"]), data, data.items))


def detected(score):
    instances = InstanceData(bboxes=torch.zeros(1, 4), scores=torch.tensor([score]), labels=torch.zeros(1).long())
    return DetDataSample(pred_instances=instances)


def segmented(logit):
    return SegDataSample(seg_logits=PixelData(data=torch.full((2, *WIDE), logit)))


@pytest.mark.parametrize("answer", [detected, segmented])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_say_of_which_image(make_images, answering, answer, value):
    data = make_images([WIDE] * 3, ["a"])
    model = answering(lambda number: answer(value if number == 1 else 0.5), ["a"])
    with pytest.raises(DataError, match=r"^01\.png: the model gives NaN or infinity for it; copy the run again"):
        list(outcomes(model, data, data.items))
    assert len(list(outcomes(model, data, data.items[2:]))) == 1


def test_nan_inside_a_model_is_found_where_its_boxes_were_dropped(make_images, answering):
    data = make_images([WIDE] * 3, ["a"])
    model = answering(lambda number: model.head([torch.tensor(torch.nan if number == 2 else 0.0)]) and number, ["a"])
    model.head = torch.nn.Identity()
    with pytest.raises(DataError, match=r"^02\.png: the model gives NaN"):
        list(outcomes(model, data, data.items))
    assert [answer for _, answer in outcomes(model, data, data.items[:2])] == [0, 1]
    assert not model.head._forward_hooks


def test_a_model_sees_an_image_in_a_set_as_it_sees_it_alone(tmp_path, small_clip_spec, make_images):
    """A segmentor that pads its batches: a neighbour's size must not reach into an image."""
    from mmengine import Config

    from vladapt.registry import MODELS

    data = make_images([(40, 48), (40, 48), (64, 33)], ["cat", "dog"])
    for item in data.items:
        pixels = np.random.default_rng(int(item.id[:2])).integers(0, 255, (item.target.size[1], item.target.size[0], 3))
        Image.fromarray(pixels.astype(np.uint8)).save(item.source)
    config = {
        "type": "mmseg.EncoderDecoder",
        "data_preprocessor": {"type": "mmseg.SegDataPreProcessor", "test_cfg": {"size_divisor": 32}},
        "backbone": {
            "type": "vladapt.CLIPVisionBackbone",
            "backbone": small_clip_spec,
            "out_channels": 8,
            "num_outs": 4,
        },
        "decode_head": {
            "type": "vladapt.TextFPNHead",
            "classifier": {"backbone": small_clip_spec, "classes": "cat, dog"},
            "in_channels": [8] * 4,
            "in_index": [0, 1, 2, 3],
            "feature_strides": [2, 4, 8, 16],
            "channels": 8,
            "num_classes": 2,
            "norm_cfg": {"type": "GN", "num_groups": 2},
            "loss_decode": {"type": "mmseg.CrossEntropyLoss"},
        },
        "test_cfg": {"mode": "whole"},
    }
    torch.manual_seed(0)
    model = MODELS.build(Config(config)).eval()
    pipeline = [{"type": "vladapt.LoadItemImage"}, {"type": "mmseg.PackSegInputs"}]
    model.cfg = Config({"default_scope": "mmseg", "vladapt": {"test_pipeline": pipeline}})
    together = [sample.seg_logits.data for _, sample in outcomes(model, data, data.items)]
    for item, logits in zip(data.items, together, strict=True):
        ((_, alone),) = outcomes(model, data, [item])
        assert logits.shape[1:] == (item.target.size[1], item.target.size[0])
        torch.testing.assert_close(alone.seg_logits.data, logits)
