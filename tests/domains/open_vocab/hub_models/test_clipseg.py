"""CLIPSeg: classes are texts, and its loss and maps are transformers' own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
pytest.importorskip("mmseg")
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny_texts`
import tiny_texts  # noqa: E402
from mmengine import Config  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from vladapt import ConfigError  # noqa: E402
from vladapt.core.errors import CapabilityError  # noqa: E402
from vladapt.core.export.folder import Session  # noqa: E402
from vladapt.domains.open_vocab.exporting.segmentors import TextMaps  # noqa: E402
from vladapt.domains.open_vocab.hub_models.source import hub_model  # noqa: E402
from vladapt.domains.open_vocab.hub_models.starting import task_of_source  # noqa: E402
from vladapt.domains.open_vocab.vocabulary import Vocabulary  # noqa: E402
from vladapt.registry import MODELS  # noqa: E402

SIDE, LENGTH = 64, 16
NAMES = ("red circle", "blue square")
ASKED = [f"a photo of a {name}." for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clipseg")
    tokenizer = tiny_texts.clip_tokenizer(LENGTH)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    config = transformers.CLIPSegConfig(
        text_config={
            **tower,
            "num_hidden_layers": 1,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": LENGTH,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config={**tower, "num_hidden_layers": 3, "image_size": SIDE, "patch_size": 16},
        projection_dim=16,
        extract_layers=[0, 1, 2],
        reduce_dim=8,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPSegForImageSegmentation(config)
        model.clip.text_model.embeddings.token_embedding.weight.data.mul_(50)  # so that words matter
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stated = {"image_processor_type": "ViTImageProcessor", "size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    return folder


def built(folder, names=NAMES, **more):
    source = hub_model(f"hf:{folder}")
    node = {"config": source.config, "processor": source.processor, "classes": list(names), **more}
    own = {"type": "vladapt.HFTextSegmentor", "templates": ["a photo of a {}."], **node}
    return MODELS.build({name: value for name, value in own.items() if value is not None})


@pytest.fixture(scope="module")
def ours(folder):
    return built(folder, pretrained=str(folder)).eval()


@pytest.fixture(scope="module")
def theirs(folder):
    model = transformers.CLIPSegForImageSegmentation.from_pretrained(folder).eval()
    tokens = tiny_texts.clip_tokenizer(LENGTH)(ASKED, padding="max_length", max_length=LENGTH, return_tensors="pt")

    def ask(pixels, labels=None):
        """Each image with each text; (B, 2, H, W)."""
        texts = {name: each.repeat(len(pixels), 1) for name, each in tokens.items()}
        outputs = model(pixel_values=pixels.repeat_interleave(2, 0), labels=labels, **texts)
        return outputs.logits.unflatten(0, (-1, 2)), outputs.loss, model

    return ask


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def samples(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=each[None].to(torch.uint8))) for each in labels]


def test_maps_are_those_of_each_text_alone(ours, theirs, pixels, folder):
    assert task_of_source(hub_model(f"hf:{folder}")) == "segmentation"
    with torch.no_grad():
        wanted, _, _ = theirs(pixels)
        torch.testing.assert_close(ours.encode_decode(pixels), wanted, rtol=1e-4, atol=1e-6)
        sample = ours.predict(pixels, [SegDataSample(metainfo={"ori_shape": (90, 50)}) for _ in pixels])[0]
    larger = torch.nn.functional.interpolate(wanted[:1], (90, 50), mode="bilinear")[0]
    assert (sample.pred_sem_seg.data[0] == larger.argmax(0)).float().mean() > 0.999


def test_loss_and_gradient_are_transformers_own_and_clip_stays(ours, theirs, pixels):
    labels = torch.randint(0, 2, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(1))
    each = torch.stack([(labels == place).float() for place in range(2)], dim=1).flatten(0, 1)
    _, loss, model = theirs(pixels, each)
    parts = ours.loss(pixels, samples(labels))
    torch.testing.assert_close(parts["loss_mask"], loss)
    loss.backward()
    parts["loss_mask"].backward()
    wanted = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    gradients = {name: weight.grad for name, weight in ours.model.named_parameters() if weight.grad is not None}
    assert gradients.keys() == wanted.keys() and not any(name.startswith("clip.") for name in gradients)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-6, msg=name)


def test_texts_are_read_anew_after_training_in_low_precision(ours, pixels):
    with torch.no_grad():
        wanted = ours.encode_decode(pixels)
        ours.take_classes(ours.vocabulary)
        with torch.autocast("cpu", torch.bfloat16):
            ours.train().loss(pixels, samples(torch.zeros(2, SIDE, SIDE)))
        assert torch.equal(ours.eval().encode_decode(pixels), wanted)


def test_a_segmentor_with_a_closed_head_takes_no_model_that_is_asked_by_texts(folder):
    with pytest.raises(ConfigError, match="HFSegmentor: clipseg has no closed head"):
        built(folder, type="vladapt.HFSegmentor", templates=None)


def test_ignored_pixels_teach_nothing(ours, pixels):
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    labels[:, :32] = 255
    other = labels.clone()
    with torch.no_grad():
        half = ours.loss(pixels, samples(other))["loss_mask"]
        logits = ours.encode_decode(pixels)[:, :, 32:]
        truth = torch.stack([torch.ones_like(logits[:, 0]), torch.zeros_like(logits[:, 1])], dim=1)
        torch.testing.assert_close(half, torch.nn.functional.binary_cross_entropy_with_logits(logits, truth))
        assert ours.loss(pixels, samples(torch.full_like(labels, 255)))["loss_mask"] == 0


def test_background_is_what_no_other_class_is_likely_in(folder, ours, pixels):
    model = built(folder, ("background", *NAMES), pretrained=str(folder)).eval()
    with torch.no_grad():
        asked, logits = ours.encode_decode(pixels), model.encode_decode(pixels)
        assert torch.equal(logits[:, 1:], asked) and not logits[:, 0].any()
        labels = torch.randint(0, 3, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
        truth = torch.stack([(labels == place).float() for place in (1, 2)], dim=1)
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(asked, truth)
        torch.testing.assert_close(model.loss(pixels, samples(labels))["loss_mask"], wanted)
    assert model.choose(torch.tensor([0.0, -1.0, -2.0]).reshape(3, 1, 1)) == 0
    model.take_classes(Vocabulary.of("red circle", ["{}"]))
    assert model.choose(torch.tensor([[[-0.1, 0.1]]])).flatten().tolist() == [-1, 0]


def test_a_run_reads_names_by_itself(folder, ours, pixels):
    fresh = built(folder)
    fresh.load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval().encode_decode(pixels), ours.encode_decode(pixels))
        fresh.take_classes(Vocabulary.of(["blue square", "red circle"], ["a photo of a {}."]))
        assert torch.equal(fresh.encode_decode(pixels), ours.encode_decode(pixels).flip(1))


@pytest.mark.thorough
def test_a_graph_knows_its_names_by_heart(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    names = (*NAMES, "background")
    form = TextMaps(resizing(built(folder, names, pretrained=str(folder)).eval(), folder))
    form.check()
    noise = form.noise()
    form.graph(noise[0]).write(tmp_path / "model.onnx", 18, {})
    ask = Session(tmp_path / "model.onnx")
    for images in (*noise, torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))):
        with torch.no_grad():
            wanted = form.model.encode_decode(images)
        torch.testing.assert_close(torch.from_numpy(ask(pixels=images.numpy())["logits"]), wanted, atol=1e-4, rtol=0)
    other = built(folder, ("a lamp", *names[1:]), pretrained=str(folder)).eval().encode_decode(images)
    assert not torch.allclose(other[:, 0], wanted[:, 0], atol=1e-3)
    with pytest.raises(CapabilityError, match='fit with a class "background" too'):
        TextMaps(resizing(built(folder, NAMES[:1], pretrained=str(folder)), folder)).check()


def resizing(model, folder):
    """With the pipeline of a run."""
    resize = {"type": "vladapt.ProcessorResize", "processor": hub_model(f"hf:{folder}").processor}
    model.cfg = Config({"vladapt": {"test_pipeline": [resize]}})
    return model
