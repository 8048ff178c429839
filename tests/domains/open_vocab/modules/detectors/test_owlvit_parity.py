"""OWL-ViT against transformers' outputs, from its own checkpoint files."""

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them
pytest.importorskip("transformers", reason="extra hf is not installed")

import transformers
from parity_checks.detectors import owlvit, write_checkpoint

from vladapt.domains.open_vocab.modules.detectors.owlvit.detector import OWLViT
from vladapt.domains.open_vocab.modules.detectors.owlvit.heads import box_bias


@pytest.fixture(scope="module")
def reference(references):
    (ref,) = references(owlvit)
    return ref


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """A folder as `save_pretrained` writes it, with the fixture's weights; words are letters."""
    target = write_checkpoint(reference, tmp_path_factory.mktemp("owlvit"))
    write_tokenizer(target, reference.setting("config.text_config"))
    return target


def write_tokenizer(target, text_config):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    begin, end = text_config["bos_token_id"], text_config["eos_token_id"]
    letters = {letter: 1 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz0123456789.,-")}
    vocabulary = {"<pad>": 0, **letters, "<begin>": begin, "<end>": end}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="-"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", begin), ("<end>", end)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<begin>",
        eos_token="<end>",
        pad_token="<pad>",
        model_max_length=text_config["max_position_embeddings"],
    ).save_pretrained(target)


@pytest.fixture(scope="module")
def model(folder):
    return OWLViT(f"hf:{folder}", "cat, dog", masked_logit=None).eval()


@pytest.fixture(scope="module")
def published(folder):
    return transformers.OwlViTForObjectDetection.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def features(model, reference):
    with torch.no_grad():
        return model.extract_feat(reference["pixel_values"])


def test_its_parts_agree_with_transformers(agrees):
    """Patches, text embeddings, class embeddings, logits and boxes, put together by hand."""
    agrees(owlvit)


def test_patches_are_those_of_transformers(features, reference):
    patches, grid = features
    reference.assert_close(patches.unflatten(1, grid), "image_embeds")


@torch.no_grad()
def test_a_text_of_nothing_but_padding_is_read_as_transformers_reads_it(model, reference):
    tokens = reference["input_ids"]
    empty = tokens[:, 0] == reference.setting("config.text_config.pad_token_id")
    if not empty.any():
        pytest.skip("the fixture has no such text")
    where = empty.view(reference["text_embeds"].shape[:2])[..., None].expand_as(reference["text_embeds"])
    ours = torch.zeros(len(tokens), reference["text_embeds"].shape[-1])
    ours[empty] = all_padding(model.tower.backbone, tokens[empty])
    reference.assert_close(ours, "text_embeds", where=where)


def all_padding(backbone, tokens):
    """A text without a single token, which no query is: there is nothing to look at, so attention gives nothing."""
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    x = backbone.embed_prompt(backbone.embed_tokens(tokens), mask)
    x = backbone.run_blocks("text", x, attention=lambda index, block, x: block.out(torch.zeros_like(x)))
    return backbone.pool_text(x, mask)


@torch.no_grad()
def test_class_embeddings_and_logits_are_those_of_transformers(model, features, reference):
    patches, _ = features
    embeddings = model.class_head.embed(patches)
    reference.assert_close(embeddings / (embeddings.norm(dim=-1, keepdim=True) + 1e-6), "class_embeds")
    texts = reference["text_embeds"]
    mask = reference["input_ids"].view(*texts.shape[:2], -1)[..., 0] > 0
    reference.assert_close(model.class_head(patches, texts, mask), "logits")


@torch.no_grad()
def test_boxes_are_those_of_transformers(model, features, reference):
    reference.assert_close(model.boxes(*features), "pred_boxes")
    reference.assert_close(box_bias(features[1]), "box_bias")


@torch.no_grad()
def test_detection_by_an_example_image_is_that_of_transformers(model, published, reference):
    pixels, examples = reference["pixel_values"], reference["pixel_values"].flip(0)
    expected = published.image_guided_detection(pixel_values=pixels, query_pixel_values=examples)
    queries = model.embed_image_queries(examples)  # (B, D)
    patches, grid = model.extract_feat(pixels)
    logits = model.class_head(patches, queries[:, None])
    close = {name: reference.tolerance[name] for name in ("rtol", "atol")}
    torch.testing.assert_close(logits, expected.logits, **close)
    torch.testing.assert_close(model.boxes(patches, grid), expected.target_pred_boxes, **close)


@torch.no_grad()
def test_other_image_sizes_are_those_of_transformers_with_its_interpolation(model, published, reference):
    vision, text = (reference.setting(f"config.{part}_config") for part in ("vision", "text"))
    cells = vision["image_size"] // vision["patch_size"] + 2
    size = cells * vision["patch_size"]
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[text["bos_token_id"], 3, text["eos_token_id"]]])
    given = {"input_ids": tokens, "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    expected = published(pixel_values=pixels, interpolate_pos_encoding=True, **given)
    patches, grid = model.extract_feat(pixels)
    assert grid == (cells, cells)
    torch.testing.assert_close(model.boxes(patches, grid), expected.pred_boxes, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_texts_of_the_model_are_read_by_the_checkpoints_own_tower(model, published, folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["itap of a cat", "art of the cat"]
    model.queries.take_classes(type(model.queries.vocabulary)(("cat",), (tuple(texts),), (0,)))
    length = tokenizer.model_max_length
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    given = published.owlvit.get_text_features(tokens.input_ids, attention_mask=tokens.attention_mask)
    rows = torch.nn.functional.normalize(given if isinstance(given, torch.Tensor) else given.pooler_output, dim=-1)
    mean = torch.nn.functional.normalize(rows.mean(dim=0, keepdim=True), dim=-1)
    torch.testing.assert_close(model.queries(), mean, rtol=1e-4, atol=1e-5)


def test_the_frozen_text_tower_is_the_checkpoints_too(folder, model):
    frozen = OWLViT(f"hf:{folder}", "cat, dog", train_text=False).eval()
    model.queries.take_classes(frozen.queries.vocabulary)
    with torch.no_grad():
        torch.testing.assert_close(frozen.queries(), model.queries(), rtol=1e-4, atol=1e-5)
    assert frozen.text is None
    assert not any("text" in name for name, _ in frozen.named_parameters())


@pytest.fixture(scope="module")
def second(tmp_path_factory, reference):
    """OWLv2 of the fixture's size, as transformers saves it, and its folder."""
    whole = reference.setting("config")
    config = {name: value for name, value in whole.items() if name not in ("model_type", "transformers_version")}
    for part in ("text_config", "vision_config"):
        config[part] = {name: value for name, value in config[part].items() if name != "model_type"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.Owlv2ForObjectDetection(transformers.Owlv2Config(**config)).eval()
        torch.nn.init.normal_(model.objectness_head.dense2.weight)
    target = tmp_path_factory.mktemp("owlv2")
    model.save_pretrained(target)
    write_tokenizer(target, config["text_config"])
    return model, target


@torch.no_grad()
def test_owlv2_and_its_objectness_are_those_of_transformers(second, reference):
    published, target = second
    model = OWLViT(f"hf:{target}", "cat, dog").eval()
    pixels = reference["pixel_values"][:1]
    tokens = reference["input_ids"][: reference["text_embeds"].shape[1]]
    tokens = tokens[tokens[:, 0] > 0]
    expected = published(input_ids=tokens, attention_mask=(tokens > 0).long(), pixel_values=pixels)
    patches, grid = model.extract_feat(pixels)
    torch.testing.assert_close(model.objectness(patches), expected.objectness_logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.boxes(patches, grid), expected.pred_boxes, rtol=1e-4, atol=1e-5)
    queries = model.tower.backbone.encode_text(tokens)
    torch.testing.assert_close(model.class_head(patches, queries), expected.logits, rtol=1e-4, atol=1e-4)


def test_a_published_checkpoint_can_be_trained_on(folder, reference):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    model = OWLViT(f"hf:{folder}", "cat, dog", image_droplayer=0.0, text_droplayer=0.0).train()
    pixels = reference["pixel_values"]
    sample = DetDataSample(metainfo={"img_shape": tuple(pixels.shape[2:])})
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.9]]) * pixels.shape[-1]
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([1]))
    sum(model.loss(pixels, [sample] * len(pixels)).values()).backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
