"""mmdet's own GLIP and Grounding DINO configs, made small: they train, predict, and take new class names."""

import pytest
import torch

from vladapt.core.errors import CapabilityError, ConfigError

pytest.importorskip("mmdet")

from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

from vladapt.domains.open_vocab.modules.transforms.loading import ClassPrompt
from vladapt.domains.open_vocab.plans.classes import with_class_names
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

GLIP = "mmdet::glip/glip_atss_swin-t_b_fpn_dyhead_16xb2_ms-2x_funtune_coco.py"
GROUNDING_DINO = "mmdet::grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco.py"
SMALL_SWIN = {
    "embed_dims": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 1, 1],
    "drop_path_rate": 0.0,
    "with_cp": False,
}
NAMES = ("red circle", "blue square", "cat")


def glip_config(bert):
    model = get_config(GLIP).model
    model.backbone.update(SMALL_SWIN)
    model.neck.in_channels = [16, 32, 64]
    model.bbox_head.update(lang_model_name=bert, num_dyhead_blocks=1, use_checkpoint=False)
    model.language_model.name = bert
    model.test_cfg.update(score_thr=0.0, max_per_img=20)
    return with_class_names(model)


def grounding_dino_config(bert):
    model = get_config(GROUNDING_DINO).model
    model.backbone.update(SMALL_SWIN)
    model.neck.in_channels = [16, 32, 64]
    model.language_model.name = bert
    model.update(num_queries=20)
    model.encoder.update(num_layers=1, num_cp=1)
    model.decoder.update(num_layers=1)
    model.test_cfg.max_per_img = 20
    return with_class_names(model)


def build(config):
    with torch.random.fork_rng(), DefaultScope.overwrite_default_scope("mmdet"):
        torch.manual_seed(0)
        built = MODELS.build(config)
        built.init_weights()  # Grounding DINO's embedding of levels is memory as it comes until then
        return built


@pytest.fixture(scope="module")
def models(small_bert, wide_bert):
    return {"GLIP": build(glip_config(wide_bert)), "GroundingDINO": build(grounding_dino_config(small_bert))}


@pytest.fixture(params=["GLIP", "GroundingDINO"])
def model(request, models):
    found = models[request.param].eval()
    found.vocabulary = None
    found.language_model.max_tokens = 256
    found.test_cfg["chunked_size"] = -1
    return found


def sample(labels=(0, 1), **meta):
    sizes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape", "batch_input_shape"), (64, 64))
    found = DetDataSample(metainfo=sizes | {"scale_factor": (1.0, 1.0)} | meta)
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 20, 60, 60]])
    found.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(labels))
    return found


def prompted(*args, **options):
    return ClassPrompt(NAMES)({"data_samples": sample(*args, **options)})["data_samples"]


def images(count=2):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.thorough(but=("GroundingDINO",))
def test_it_trains_on_names_in_the_samples(model):
    model.train()
    losses = model(images(), [prompted(), prompted((2, 2))], mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum()}
    assert torch.isfinite(total) and {"language_model", "backbone", "bbox_head"} <= reached
    model.zero_grad()


@torch.no_grad()
def test_it_predicts_the_names_it_is_asked_for(model):
    found = model(images(), [prompted(), prompted()], mode="predict")
    for predicted in (one.pred_instances for one in found):
        assert len(predicted) and [NAMES[i] for i in predicted.labels] == predicted.label_names


@torch.no_grad()
def test_new_names_replace_those_of_the_samples(model):
    set_classes(model, "dog, cat")
    mine = model(images(1), [prompted()], mode="predict")[0].pred_instances
    model.vocabulary = None
    asked = sample(text=("dog", "cat"), custom_entities=True)
    theirs = model(images(1), [asked], mode="predict")[0].pred_instances
    assert set(mine.label_names) <= {"dog", "cat"}
    torch.testing.assert_close(mine.scores, theirs.scores)
    assert mine.labels.tolist() == theirs.labels.tolist()


def test_the_loss_of_its_own_names_is_that_of_the_samples(model):
    def loss(samples):
        model.train()
        torch.manual_seed(0)
        return model.parse_losses(model(images(), samples, mode="loss"))[0].item()

    said = loss([prompted(), prompted()])
    set_classes(model, {"red circle": {"synonyms": ["dog"]}, "blue square": [], "cat": ["a small animal"]})
    assert loss([sample(), sample()]) == pytest.approx(said, rel=1e-5)
    set_classes(model, "cat, dog, blue square")
    assert loss([sample(), sample()]) != pytest.approx(said, rel=1e-5)


@torch.no_grad()
def test_synonyms_find_boxes_of_their_class(model):
    set_classes(model, {"red circle": {"synonyms": ["dog", "cat"]}, "blue square": []})
    found = model(images(1), [sample()], mode="predict")[0].pred_instances
    assert set(found.labels.tolist()) <= {0, 1} and len(found)
    pairs = list(zip(found.labels.tolist(), map(tuple, found.bboxes.tolist())))
    assert len(set(pairs)) == len(pairs)


@torch.no_grad()
def test_a_description_follows_the_name(model):
    set_classes(model, {"cat": ["a red dog"], "blue square": []})
    described = model(images(1), [sample()], mode="predict")[0].pred_instances
    set_classes(model, "cat, blue square")
    bare = model(images(1), [sample()], mode="predict")[0].pred_instances
    assert not torch.equal(described.scores, bare.scores)


@torch.no_grad()
def test_more_names_than_one_caption_holds(model):
    """Ten tokens hold two names of two words and their full stops; four names are asked for in two captions."""
    model.language_model.max_tokens = 10
    set_classes(model, "red circle, blue square, red cat, blue dog")
    assert model.test_cfg["chunked_size"] == 2
    found = model(images(2), [sample(), sample()], mode="predict")
    assert all({0, 1, 2, 3} >= set(one.pred_instances.labels.tolist()) > {0} for one in found)
    with pytest.raises(CapabilityError, match="14 tokens, the language model reads 10"):
        model(images(), [sample(), sample()], mode="loss")


def test_more_names_than_the_head_counts(model):
    set_classes(model, [f"cat {'x' * i}" for i in range(1, 82)])
    with pytest.raises(ConfigError, match=r"num_classes is 80, with 81 class names"):
        model(images(), [sample(), sample()], mode="loss")


@torch.no_grad()
def test_raw_outputs(model):
    set_classes(model, NAMES)
    outputs = model(images(1), [sample()], mode="tensor")
    assert all(torch.isfinite(part[0]).any() for part in outputs)


def test_a_caption_of_its_own_is_kept(model):
    """A grounding sample names its positions in the text; class names of the model do not touch it."""
    set_classes(model, "dog")
    own = sample(text="cat. dog. ", tokens_positive=[[[0, 3]], [[5, 8]]])
    model(images(1), [own], mode="predict")
    assert own.text == "cat. dog. "


def test_names_in_the_config(small_bert):
    config = grounding_dino_config(small_bert) | {"classes": "cat, dog"}
    assert build(config).vocabulary.names == ("cat", "dog")


def test_weights_of_mmdet_s_own_load_unchanged(models, small_bert):
    theirs = build(grounding_dino_config(small_bert) | {"type": "mmdet.GroundingDINO"})
    models["GroundingDINO"].load_state_dict(theirs.state_dict(), strict=True)


def test_only_grounded_models_are_changed():
    assert with_class_names({"type": "mmdet.GLIP"}) == {"type": "vladapt.GLIP"}
    assert with_class_names({"type": "FasterRCNN", "neck": {}}) == {"type": "FasterRCNN", "neck": {}}


def test_prompts_in_a_pipeline():
    assert ClassPrompt("a, b")({"x": 1}) == {"x": 1, "text": ("a", "b"), "custom_entities": True}
    assert ClassPrompt()({"text": "cat. dog. "})["text"] == ("cat", "dog")
    assert ClassPrompt()({"text": {"0": "cat"}})["text"] == ("cat",)
    with pytest.raises(ConfigError, match="gives no names"):
        ClassPrompt()({})


@pytest.mark.thorough(but=("GroundingDINO",))
def test_it_trains_in_half_precision(model):
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images(1), [prompted()], mode="loss")
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    model.zero_grad()
