"""`vladapt.HFTextDetector`: what goes in is the processor's, names change, and its tokenizer is part of its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vladapt.core.errors import ConfigError, DataError

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from vladapt.domains.open_vocab.hub_models import loading
from vladapt.domains.open_vocab.hub_models.source import hub_model
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS, TRANSFORMS

from . import tiny_texts as tiny

NAMES = ["red square", "blue circle"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    return {kind: tiny.write_folder(kind, root / kind) for kind in ("mm-grounding-dino", "owlv2")}


def node(folder, **options):
    source = hub_model(f"hf:{folder}")
    own = {"type": "vladapt.HFTextDetector", "config": source.config, "processor": source.processor, "classes": NAMES}
    return {**own, **options}


@pytest.fixture(scope="module")
def detectors(folders):
    return {kind: MODELS.build(node(folder, pretrained=str(folder))) for kind, folder in folders.items()}


def samples(shapes=((64, 64), (64, 64)), labels=((0, 1), (1,))):
    made = []
    for (height, width), own in zip(shapes, labels, strict=True):
        sample = DetDataSample(metainfo={"img_shape": (height, width), "ori_shape": (2 * height, 2 * width)})
        boxes = torch.tensor([[8.0, 8.0, 30.0, 40.0]]).repeat(len(own), 1)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(own, dtype=torch.long))
        made.append(sample)
    return made


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "owlv2"])
def test_it_learns_and_detects(detectors, kind):
    detector = detectors[kind].train()
    losses = detector.loss(torch.randn(2, 3, 64, 64), samples())
    assert all(part.isfinite() and part > 0 for part in losses.values())
    detector.eval()
    with torch.no_grad():
        detected = detector.predict(torch.randn(2, 3, 64, 64), samples())
    for sample in detected:
        found = sample.pred_instances
        assert 5 < len(found) <= {"mm-grounding-dino": 20, "owlv2": 64}[kind] * 2
        assert (found.bboxes >= 0).all() and (found.bboxes <= 128).all()
        assert (found.scores.diff() <= 0).all()
        assert set(found.labels.tolist()) <= {0, 1}


def test_what_a_batch_shows_is_not_fetched_from_its_device_where_all_classes_are_asked_for(detectors, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "unique", lambda *_: pytest.fail("the device is waited for"))
    detectors["owlv2"].train().loss(torch.randn(2, 3, 64, 64), samples())


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "owlv2"])
def test_a_run_needs_no_source(folders, detectors, kind):
    """Built from the plan alone, with the weights of a run, it reads new names as the first does."""
    again = MODELS.build(node(folders[kind])).eval()
    again.load_state_dict(detectors[kind].state_dict())
    first = detectors[kind].eval()
    pixels = torch.randn(1, 3, 64, 64)
    for names in (NAMES, "st. bernard, green triangle, photo"):
        set_classes(again, names), set_classes(first, names)
        pair = [model.predict(pixels, samples(((64, 64),), ((),)))[0].pred_instances for model in (again, first)]
        assert torch.equal(pair[0].scores, pair[1].scores)
        assert torch.equal(pair[0].bboxes, pair[1].bboxes)
    set_classes(first, NAMES)


def test_other_names_give_other_scores(detectors):
    detector = detectors["owlv2"].eval()
    pixels = torch.randn(1, 3, 64, 64)
    before = detector.predict(pixels, samples(((64, 64),), ((),)))[0].pred_instances.scores
    set_classes(detector, "green triangle")
    after = detector.predict(pixels, samples(((64, 64),), ((),)))[0].pred_instances.scores
    set_classes(detector, NAMES)
    assert len(after) <= 64
    assert not torch.equal(before[: len(after)], after)


def test_weights_that_were_changed_read_texts_anew(detectors):
    detector = detectors["owlv2"].eval()
    pixels = torch.randn(1, 3, 64, 64)
    before = detector.predict(pixels, samples(((64, 64),), ((),)))[0].pred_instances.scores
    state = {name: value.clone() for name, value in detector.state_dict().items()}
    changed = {
        name: value * 1.5 if "text_projection" in name or "text_model.embeddings" in name else value
        for name, value in state.items()
    }
    detector.load_state_dict(changed)
    after = detector.predict(pixels, samples(((64, 64),), ((),)))[0].pred_instances.scores
    detector.load_state_dict(state)
    assert not torch.equal(before, after)


def test_boxes_are_shares_of_the_image_without_its_padding(detectors):
    detector = detectors["mm-grounding-dino"].eval()
    large, small = torch.randn(3, 96, 128), torch.randn(3, 64, 96)
    padded = torch.zeros(2, 3, 96, 128)
    padded[0], padded[1, :, :64, :96] = large, small
    wanted = torch.tensor([[19 / 96, 24 / 64, 22 / 96, 32 / 64]])
    targets = detector.family.targets(samples(((96, 128), (64, 96)), ((), (0,))), (96, 128))
    assert torch.allclose(targets[1]["boxes"], wanted)
    model, masks = detector.model, []
    hook = model.register_forward_pre_hook(lambda _, __, given: masks.append(given["pixel_mask"]), with_kwargs=True)
    detector.predict(padded, samples(((96, 128), (64, 96)), ((), ())))
    hook.remove()
    assert masks[0].sum(dim=(1, 2)).tolist() == [96 * 128, 64 * 96]
    losses = detector.loss(padded, samples(((96, 128), (64, 96)), ((0,), ())))
    assert all(part.isfinite() for part in losses.values())


def test_a_square_of_owlv2_is_the_processors(folders):
    image = np.random.default_rng(0).integers(0, 255, (48, 100, 3), dtype=np.uint8)
    theirs = tiny.processor_of("owlv2")(images=[image], text=["red"], return_tensors="pt").pixel_values[0]
    source = hub_model(f"hf:{folders['owlv2']}")
    resize = TRANSFORMS.build({"type": "vladapt.ProcessorResize", "processor": source.processor})
    bgr = np.ascontiguousarray(image[..., ::-1])
    results = resize({"img": bgr, "img_shape": image.shape[:2], "gt_bboxes": None} | {})
    preprocessor = MODELS.build(node(folders["owlv2"])).data_preprocessor
    pixels = torch.from_numpy(results["img"]).permute(2, 0, 1)
    ours = preprocessor({"inputs": [pixels], "data_samples": None}, False)["inputs"][0]
    assert torch.allclose(ours, theirs, atol=2e-3)
    assert results["scale_factor"] == (64 / 100, 64 / 100)


def test_models_that_are_not_asked_by_texts_are_refused(folders):
    with pytest.raises(ConfigError, match="no model was named"):
        MODELS.build(node(folders["owlv2"], config={}))
    with pytest.raises(ConfigError, match="has a closed head"):
        MODELS.build(node(folders["owlv2"], config={"model_type": "rt_detr_v2"}))


@pytest.mark.parametrize("kind", ["clipseg", "sam3", "sam2"])
def test_models_of_other_classes_are_refused(folders, kind):
    with pytest.raises(ConfigError, match=f"^HFTextDetector: {kind} has a class of its own; give the model as"):
        MODELS.build(node(folders["owlv2"], config={"model_type": kind}))


def test_a_detector_with_a_closed_head_takes_no_model_that_is_asked_by_texts(folders):
    with pytest.raises(ConfigError, match="owlv2 has no closed head"):
        MODELS.build(node(folders["owlv2"], type="vladapt.HFDetector"))


def test_the_run_of_another_model_gives_no_weights(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "hub_model", lambda place: None)  # as it says of such a run
    with pytest.raises(DataError, match="a run of another model"):
        MODELS.build(node(folders["owlv2"], pretrained=str(tmp_path)))


def test_a_folder_without_a_tokenizer_is_refused(folders, tmp_path):
    for name in ("config.json", "processor_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["owlv2"] / name).read_bytes())
    with pytest.raises(DataError):
        MODELS.build(node(tmp_path, pretrained=str(tmp_path)))


def test_the_names_of_a_source_are_not_known(folders):
    assert hub_model(f"hf:{folders['owlv2']}").known_names == ()


@pytest.mark.thorough(but=("mm-grounding-dino",))
@pytest.mark.parametrize("kind", ["owlv2", "mm-grounding-dino", "grounding-dino"])
def test_names_are_folded_into_a_graph(tmp_path, kind):
    pytest.importorskip("onnxruntime", reason="extra export is not installed")
    from vladapt.core.export.folder import Session
    from vladapt.domains.open_vocab.exporting.texts import TextBoxes

    model = detector_of(kind, tmp_path / "model", height=64, width=64).eval()
    model.score_thr = 1e-3
    form = TextBoxes(model)
    form.check()
    graph = form.graph(form.noise()[0])
    graph.write(tmp_path / "model.onnx", 18, {})
    ask = Session(tmp_path / "model.onnx")
    with torch.no_grad():
        for pixels in form.noise():
            scores, boxes = graph.module(pixels)
            answers = ask(pixels=pixels.numpy())
            np.testing.assert_allclose(answers["scores_0"], scores.numpy(), atol=1e-4)
            np.testing.assert_allclose(answers["boxes_0"], boxes.numpy(), atol=2e-3)  # pixels
    pixels = torch.randn(1, 3, 64, 64)
    sample = DetDataSample(metainfo={"img_shape": (64, 64), "ori_shape": (30, 50)})
    (wanted,) = model.predict(pixels, [sample])
    answer = form.answer(ask(pixels=pixels.numpy()), (64, 64), (30, 50), form.facts)
    same, among = form.same(wanted, answer)
    assert among > 10
    assert same == among
    moved = answer[0] + 1, *answer[1:]
    assert form.same(wanted, moved)[0] < among


def detector_of(kind, folder, **size):
    """With the pipeline of a run; `size` is what its processor gives."""
    from mmengine import Config

    tiny.write_folder(kind, folder)
    processor = {**hub_model(f"hf:{folder}").processor, **({"size": size} if size else {})}
    model = MODELS.build(node(folder, pretrained=str(folder), processor=processor))
    pipeline = [{"type": "LoadItemImage"}, {"type": "ProcessorResize", "processor": processor}]
    model.cfg = Config({"vladapt": {"classes": NAMES, "suppress": "none", "test_pipeline": pipeline}})
    return model


def test_what_is_no_graph_is_refused_by_name(tmp_path):
    from vladapt.core.errors import CapabilityError
    from vladapt.domains.open_vocab.exporting.texts import TextBoxes
    from vladapt.domains.open_vocab.vocabulary import Vocabulary

    grounding = detector_of("mm-grounding-dino", tmp_path / "grounding")
    with pytest.raises(CapabilityError, match=r"^mm-grounding-dino: its processor keeps the proportions of images"):
        TextBoxes(grounding).check()
    grounding.take_classes(Vocabulary.of([f"{one} {two} square" for one in "abcdefghi" for two in "abcdefghi"], "name"))
    with pytest.raises(CapabilityError, match=r"^mm-grounding-dino: its names do not fit into one caption"):
        TextBoxes(grounding).check()
    with pytest.raises(CapabilityError, match=r"^omdet-turbo: torch.s exporter"):
        TextBoxes(detector_of("omdet-turbo", tmp_path / "omdet")).check()


def test_who_names_no_text_is_told_so_and_who_does_is_not(folders, tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    import vladapt

    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    place, picture = f"hf:{folders['owlv2']}", [str(tmp_path / "a.png")]
    notes = vladapt.predict(place, picture, device="cpu").notes
    assert [note for note in notes if "names of this model are texts" in note and "give --classes" in note]
    notes = vladapt.predict(place, picture, device="cpu", classes="red circle").notes
    assert not [note for note in notes if "--classes" in note]
