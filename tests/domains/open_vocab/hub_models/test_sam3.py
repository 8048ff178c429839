"""SAM 3 inside mmdet: one pass per phrase over one embedding of the image, each as transformers' own lines give it."""

import numpy as np
import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch
from PIL import Image

from vladapt import ConfigError
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.core.tasks.config_training.runner import build_model, quiet_mm
from vladapt.domains.open_vocab.data.prompts import PROMPTS, UNNAMED
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.inference.outlining import check_segmenter, pipeline_of, segmenter_of
from vladapt.domains.open_vocab.inference.running import ask_for, outcomes
from vladapt.domains.open_vocab.modules.detectors.sam3 import SAM3

from .tiny_sam import DECODER, sam3_config, sam3_vision, saved_sam3, tiny_sam3
from .tiny_sam import PROMPTS as PROMPT_ENCODER

HEIGHT, WIDTH = 45, 61
NAMES = ["red star", "blue square"]
LEAST = 0.001


def built(place):
    source = hub_model(place)
    model = {"type": "vladapt.SAM3", "config": source.config, "classes": NAMES, "processor": source.processor}
    kept = {"classes": NAMES, "novel": [], "described": {}, "test_pipeline": pipeline_of(source.processor)}
    plan = {"default_scope": "mmdet", "model": {**model, "pretrained": str(source.folder), "score_thr": LEAST}}
    with quiet_mm():
        return build_model({**plan, "vladapt": kept}, torch.device("cpu")).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """transformers' model and processor, and ours from the folder that holds both."""
    model, processor = tiny_sam3()
    return model, processor, built(saved_sam3(tmp_path_factory.mktemp("sam3"), model, processor))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("images")
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return [folder / "a.png", folder / "b.png"]


def asked(ours, paths, boxes=None, labels=None, example=None):
    """`pred_instances` of each image."""
    none = Boxes(boxes=(), labels=(), facts={PROMPTS: []})
    targets = [none] * len(paths)
    if boxes is not None:
        told = [{"example": one} for one in example]
        targets[0] = Boxes(boxes=tuple(map(tuple, boxes)), labels=tuple(labels), facts={PROMPTS: told})
    items = [Item(id=path.name, source=path, target=target) for path, target in zip(paths, targets, strict=True)]
    data = DomainData(items, tuple(NAMES), loader((IMAGE,)))
    return [sample.pred_instances for _, sample in outcomes(ours, data, items)]


def of_transformers(model, processor, path, phrase, **examples):
    inputs = processor(images=Image.open(path), text=phrase, return_tensors="pt", **examples)
    sizes = inputs.pop("original_sizes")
    with torch.no_grad():
        outputs = model(**inputs)
    return processor.post_process_instance_segmentation(outputs, LEAST, target_sizes=sizes.tolist())[0]


def same(ours, theirs):
    assert len(theirs["scores"]) and len(ours) == len(theirs["scores"])
    torch.testing.assert_close(ours.scores, theirs["scores"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.bboxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
    assert (ours.masks != theirs["masks"].bool()).float().mean() < 1e-3


def test_each_phrase_finds_what_a_pass_of_its_own_finds_and_the_encoder_runs_once(made, images):
    model, processor, ours = made
    seen = []
    hook = ours.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    found = asked(ours, images)
    hook.remove()
    assert len(seen) == 1  # two images in one batch, two phrases
    for path, instances in zip(images, found, strict=True):
        for label, phrase in enumerate(NAMES):
            same(instances[instances.labels == label], of_transformers(model, processor, path, phrase))
    first = found[0]
    assert not torch.equal(first.scores[first.labels == 0], first.scores[first.labels == 1])


def test_examples_go_with_the_phrase_of_their_class_and_their_image_alone(made, images):
    model, processor, ours = made
    before = asked(ours, images)
    box = [3.0, 4.0, 30.0, 33.0]
    ours.prompted = True
    try:
        shown = asked(ours, images, [box], [1], [True])
        negative = asked(ours, images, [box], [1], [False])
    finally:
        ours.prompted = False
    how = {"input_boxes": [[box]], "input_boxes_labels": [[1]]}
    same(shown[0][shown[0].labels == 1], of_transformers(model, processor, images[0], NAMES[1], **how))
    how["input_boxes_labels"] = [[0]]
    same(negative[0][negative[0].labels == 1], of_transformers(model, processor, images[0], NAMES[1], **how))
    for own, plain in ((shown[0][shown[0].labels == 0], before[0][before[0].labels == 0]), (shown[1], before[1])):
        torch.testing.assert_close(own.scores, plain.scores, rtol=1e-4, atol=1e-6)


def test_examples_without_a_name_are_asked_as_the_processor_asks_them(made, images):
    model, processor, ours = made
    ask_for(ours, [UNNAMED, "star"])
    ours.prompted = True
    box = [3.0, 4.0, 30.0, 33.0]
    try:
        found = asked(ours, images[:1], [box], [0], [True])[0]
    finally:
        ours.prompted = False
        ask_for(ours, NAMES)
        ours.asked_for = None
    wanted = of_transformers(model, processor, images[0], None, input_boxes=[[box]])
    same(found[found.labels == 0], wanted)


def test_synonyms_of_a_class_find_a_thing_once(made, images):
    *_, ours = made
    one = asked(ours, images[:1])[0]
    ask_for(ours, {"red star": {"synonyms": ["red star "], "descriptions": []}, "thing": {"synonyms": ["star"]}})
    names = ours.vocabulary.names
    both = asked(ours, images[:1])[0]
    ask_for(ours, NAMES)
    assert names == ("red star", "thing")
    assert both.scores[both.labels == 0].max() == pytest.approx(one.scores[one.labels == 0].max().item(), rel=1e-4)
    of_thing = both[both.labels == 1]
    from torchvision.ops import box_iou

    overlap = box_iou(of_thing.bboxes, of_thing.bboxes) - torch.eye(len(of_thing))
    assert not len(of_thing) or overlap.max() <= 0.5


def test_it_is_not_trained_and_other_models_are_none(made):
    *_, ours = made
    with pytest.raises(ConfigError, match="SAM 3 is not trained here: its training code is under a licence"):
        ours.loss(torch.zeros(1, 3, 56, 56), [])
    with pytest.raises(ConfigError, match="--start hf:OWNER/NAME"):
        SAM3({}, NAMES, {})
    with pytest.raises(ConfigError, match="rt_detr_v2 is no SAM 3"):
        SAM3({"model_type": "rt_detr_v2"}, NAMES, {})


def test_a_whole_checkpoint_is_a_detector_and_outlines_boxes_by_its_tracker(made, images, tmp_path):
    """As facebook/sam3 is: one folder with both, each with its own part of the weights."""
    from safetensors.torch import save_file
    from transformers import Sam3TrackerConfig, Sam3TrackerModel, Sam3VideoConfig

    model, processor, ours = made
    torch.manual_seed(3)
    prompts = {**PROMPT_ENCODER, "image_size": 56, "patch_size": 14}
    tracker = Sam3TrackerModel(
        Sam3TrackerConfig(vision_config=sam3_vision(), prompt_encoder_config=prompts, mask_decoder_config=DECODER)
    ).eval()
    config = Sam3VideoConfig(detector_config=sam3_config().to_dict(), tracker_config=tracker.config.to_dict())
    saved_sam3(tmp_path, model, processor)
    (tmp_path / "model.safetensors").unlink()
    config.save_pretrained(tmp_path)
    weights = {f"detector_model.{name}": value for name, value in model.state_dict().items()}
    for name, value in tracker.state_dict().items():
        if not name.startswith("vision_encoder.backbone."):  # the encoder is the detector's
            neck, is_neck = name.replace("vision_encoder.neck.", "tracker_neck.", 1), name.startswith("vision_encoder.")
            weights[neck if is_neck else f"tracker_model.{name}"] = value
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, tmp_path / "model.safetensors")
    place = f"hf:{tmp_path}"
    again = asked(built(place), images[:1])[0]
    torch.testing.assert_close(again.scores, asked(ours, images[:1])[0].scores)
    assert check_segmenter(place).model_type == "sam3_video"
    with quiet_mm():
        segmenter = segmenter_of(place, torch.device("cpu"))
    assert segmenter.family.model_class == "Sam3TrackerModel"
    wanted = tracker.mask_decoder.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in segmenter.model.mask_decoder.state_dict().items())


def test_a_detector_without_a_tracker_outlines_no_boxes(tmp_path):
    model, processor = tiny_sam3()
    place = saved_sam3(tmp_path, model, processor)
    with pytest.raises(ConfigError, match="a sam3, which outlines no boxes"):
        check_segmenter(place)
