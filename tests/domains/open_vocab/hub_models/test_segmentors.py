"""`vladapt.HFSegmentor`: prepared, trained, asked and kept as every segmentor, and equal to transformers' own way."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

transformers = pytest.importorskip("transformers")
pytest.importorskip("mmseg")
sys.path.insert(0, str(Path(__file__).parent))  # `import tiny_maps`
import tiny_maps  # noqa: E402
from mmengine import Config  # noqa: E402
from mmengine.dataset import Compose  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from vladapt import CapabilityError, ConfigError  # noqa: E402
from vladapt.cli import app  # noqa: E402
from vladapt.domains.open_vocab.exporting.segmentors import HubMaps  # noqa: E402
from vladapt.domains.open_vocab.hub_models.source import hub_model  # noqa: E402
from vladapt.domains.open_vocab.hub_models.starting import recipe_for, task_of_source  # noqa: E402
from vladapt.registry import MODELS  # noqa: E402

NAMES = ("background", "red disc", "tree", "blue square")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model type -> its folder, as the hub has it."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_maps.written(root / name, name, NAMES)
        return made[name]

    return folder


def segmentor(folder: Path, names=NAMES):
    """A model of a plan, and its test pipeline."""
    source = hub_model(f"hf:{folder}")
    node = {"config": source.config, "processor": source.processor, "classes": list(names), "pretrained": str(folder)}
    steps = [{"type": "vladapt.LoadItemImage"}, {"type": "vladapt.ProcessorResize", "processor": source.processor}]
    init_default_scope("mmseg")
    model = MODELS.build({"type": "vladapt.HFSegmentor", **node}).eval()
    model.cfg = Config({"vladapt": {"test_pipeline": steps, "classes": list(names)}})
    return model, Compose([*steps, {"type": "PackSegInputs"}])


@pytest.mark.parametrize("name", tiny_maps.CLOSED)
def test_an_image_file_becomes_the_map_that_transformers_makes_of_it(folders, name, tmp_path):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    coarse.resize((150, 97)).save(tmp_path / "image.png")
    model, prepare = segmentor(folders(name))
    sample = prepare({"img_path": str(tmp_path / "image.png"), "decode": {}})
    predicted = model.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})[0]
    processor = transformers.AutoImageProcessor.from_pretrained(folders(name))
    theirs = getattr(transformers, type(model.model).__name__).from_pretrained(folders(name)).eval()
    inputs = processor(Image.open(tmp_path / "image.png"), return_tensors="pt")
    with torch.no_grad():
        outputs = theirs(**inputs)
        wanted = processor.post_process_semantic_segmentation(outputs, [(97, 150)], return_segmentation_scores=True)[0]
    torch.testing.assert_close(predicted.seg_logits.data, wanted.segmentation_scores, rtol=1e-3, atol=1e-4)
    assert (predicted.pred_sem_seg.data[0] == wanted.segmentation).float().mean() > 0.999


@pytest.mark.parametrize("name", ["segformer", "mask2former"])
def test_a_head_grows_by_name_and_known_rows_stay_bit_for_bit(folders, name):
    model, _ = segmentor(folders(name), ("crack", "blue square", "background"))
    before = segmentor(folders(name))[0].model.state_dict()
    after = model.model.state_dict()
    head = "decode_head.classifier" if name == "segformer" else "class_predictor"
    for part in ("weight", "bias"):
        rows, old = after[f"{head}.{part}"], before[f"{head}.{part}"]
        assert torch.equal(rows[1], old[3]) and torch.equal(rows[2], old[0])
        if name == "mask2former":
            assert len(rows) == 4 and torch.equal(rows[3], old[4])  # of no object
    if name == "mask2former":
        assert after["criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.1])


def test_chosen_names_are_numbered_and_what_else_wins_has_none(folders):
    model, _ = segmentor(folders("segformer"))
    scores = torch.eye(4).reshape(4, 2, 2)  # each pixel is won by another class
    assert model.choose(scores).flatten().tolist() == [0, 1, 2, 3]
    model.choose_names([3, 1])
    assert model.choose(scores).flatten().tolist() == [-1, 1, -1, 0]
    model.choose_names(None)
    assert model.choose(scores).flatten().tolist() == [0, 1, 2, 3]


def test_what_a_pipeline_padded_is_not_looked_at(folders):
    model, _ = segmentor(folders("segformer"))
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    shapes = [(64, 64), (32, 64)]
    samples = [SegDataSample(metainfo={"img_shape": shape, "ori_shape": shape}) for shape in shapes]
    for number, (height, sample) in enumerate(zip((64, 32), model.predict(pixels, samples))):
        alone = model.predict(pixels[number : number + 1, :, :height])[0]
        torch.testing.assert_close(sample.seg_logits.data, alone.seg_logits.data)


def test_the_task_of_a_type_that_gives_objects_and_maps(folders, tmp_path):
    by_folder = {name: hub_model(f"hf:{folders(name)}") for name in ("segformer", "mask2former", "eomt")}
    tasks = {name: task_of_source(source) for name, source in by_folder.items()}
    assert tasks == {"segformer": "segmentation", "mask2former": "detection", "eomt": "segmentation"}
    assert recipe_for(by_folder["mask2former"], "segmentation") == "hf-segmentor"
    assert recipe_for(by_folder["mask2former"], "detection") == "hf-detector"
    with pytest.raises(ConfigError, match="give --task segmentation"):
        recipe_for(by_folder["segformer"], "detection")


def vladapt(*arguments, code=0):
    done = CliRunner().invoke(app, [*map(str, arguments), "--device", "cpu"])
    assert done.exit_code == code, done.output
    return str(done.exception) if code else json.loads(done.stdout)


def test_a_segmentor_is_fitted_kept_scored_and_asked_for_some_of_its_names(folders, tmp_path):
    data = tiny_maps.scenes(tmp_path / "data", 4)
    start = ("--domain", "open-vocab", "--task", "segmentation", "--data", data, "--start", f"hf:{folders('eomt')}")
    quick = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--json")
    run = Path(vladapt("fit", *start, *quick, "--out", tmp_path)["run"])
    kept = json.loads((run / "run.json").read_text())
    assert kept["plan"]["vladapt"]["source"] == {"id": str(folders("eomt")), "revision": "", "licence": "mit"}
    assert kept["class_names"] == ["background", "red disc", "blue square"]
    from safetensors.torch import load_file

    assert not load_file(run / "adapter.safetensors")["model.attn_mask_probs"].any()  # given up in the end
    image = data / "test_0.png"
    every = vladapt("predict", run, image, "--json")["predictions"][0]
    some = vladapt("predict", run, image, "--classes", "blue square", "--json")["predictions"][0]
    assert set(some["masks"]) <= {"blue square"}
    assert some["masks"].get("blue square") == every["masks"].get("blue square")
    assert "does not know 'cat'" in vladapt("predict", run, image, "--classes", "cat", code=1)


def test_a_backbone_that_a_configuration_names_is_transformers_own(folders, tmp_path):
    data = tiny_maps.scenes(tmp_path / "data", 2)
    stated = json.loads((folders("maskformer") / "config.json").read_text())
    assert stated["decoder_config"]["backbone_config"]["backbone"] == "resnet50"  # which is not built
    start = ("--domain", "open-vocab", "--task", "detection", "--data", data, "--start", f"hf:{folders('maskformer')}")
    run = vladapt("fit", *start, "--epochs", 1, "--batch-size", 2, "--workers", 0, "--json", "--out", tmp_path)["run"]
    kept = json.loads((Path(run) / "run.json").read_text())["plan"]["model"]["config"]
    assert kept["decoder_config"]["backbone_config"]["backbone"] == "resnet50"


def test_a_segmentor_is_used_as_it_is(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    image = tiny_maps.scenes(tmp_path / "data", 1) / "test_0.png"
    row = vladapt("predict", f"hf:{folders('segformer')}", image, "--json")["predictions"][0]
    assert set(row["masks"]) <= set(NAMES) and sum(row["shares"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["segformer", "upernet"])
def test_a_segmentor_is_exported_with_the_answers_of_its_run(folders, tmp_path, name):
    pytest.importorskip("onnxruntime")
    data = tiny_maps.scenes(tmp_path / "data", 1)
    classes = ("--classes", "background,red disc,blue square")
    start = ("--start", f"hf:{folders(name)}", "--epochs", 0, *classes, "--out", tmp_path, "--json")
    run = vladapt("fit", "--domain", "open-vocab", "--task", "segmentation", "--data", data, *start)["run"]
    vladapt("export", run, "--out", tmp_path / "export", "--json")
    facts = json.loads((tmp_path / "export" / "export.json").read_text())
    assert facts["model"] == "HFSegmentor" and facts["class_names"] == ["background", "red disc", "blue square"]
    assert (tmp_path / "export" / "model.onnx").is_file()


def test_a_type_whose_graph_has_one_size_is_refused_by_name_where_its_processor_keeps_the_ratio(folders):
    for name in ("mask2former", "eomt"):
        with pytest.raises(CapabilityError, match=f"a graph of {name} takes images of one size"):
            HubMaps(segmentor(folders(name))[0]).check()
    for name, size in (("segformer", (64, 64)), ("dpt", (64, 64))):
        form = HubMaps(segmentor(folders(name))[0])
        form.check()
        assert form.size == size


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--start", "hf:"), "names no model"),
        (("--start", "run"), "no model of transformers"),
        (("--recipe", "open-vocab/hf-segmentor"), "--start hf:OWNER/NAME"),
    ],
)
def test_bad_starts_are_one_line(more, told):
    output = vladapt("fit", "--domain", "open-vocab", "--task", "segmentation", "--data", "sample", *more, code=1)
    assert told in output and "\n" not in output


@pytest.mark.parametrize("name", tiny_maps.QUERIES)
def test_objects_of_an_image_file_are_those_of_transformers(folders, name, tmp_path):
    options = {"image_processor_type": "EomtImageProcessor", "size": {"shortest_edge": 64, "longest_edge": 64}}
    stated = {**options, "do_pad": True, **tiny_maps.IMAGENET} if name == "eomt" else None
    folder = shutil.copytree(folders(name), tmp_path / name)
    if stated:  # its checkpoints for objects pad; those for maps cut
        (folder / "preprocessor_config.json").write_text(json.dumps(stated))
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    coarse.resize((150, 97)).save(tmp_path / "image.png")
    source = hub_model(f"hf:{folder}")
    node = {"config": source.config, "processor": source.processor, "classes": list(NAMES), "pretrained": str(folder)}
    init_default_scope("mmdet")
    model = MODELS.build({"type": "vladapt.HFDetector", "score_thr": 0.0, **node}).eval()
    prepare = Compose(
        [
            {"type": "vladapt.LoadItemImage"},
            {"type": "vladapt.ProcessorResize", "processor": source.processor},
            {"type": "PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
        ]
    )
    sample = prepare({"img_path": str(tmp_path / "image.png"), "decode": {}})
    objects = model.test_step({"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]})[
        0
    ].pred_instances
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = getattr(transformers, type(model.model).__name__).from_pretrained(folder).eval()
    with torch.no_grad():
        outputs = theirs(**processor(Image.open(tmp_path / "image.png"), return_tensors="pt"))
    many = {} if name == "eomt" else {"return_binary_maps": True}
    wanted = processor.post_process_instance_segmentation(outputs, target_sizes=[(97, 150)], threshold=0, **many)[0]
    segments = wanted["segments_info"]
    assert objects.labels.tolist() == [segment["label_id"] for segment in segments]
    assert objects.scores.tolist() == pytest.approx([segment["score"] for segment in segments], abs=1e-4)
    if name != "eomt":
        assert (objects.masks == wanted["segmentation"].bool()).float().mean() > 0.999


@pytest.mark.thorough(but=("eomt",))
@pytest.mark.parametrize("name", ["mask2former", "eomt"])
def test_objects_are_taught_through_a_detector(folders, name, tmp_path):
    data = tiny_maps.scenes(tmp_path / "data", 2)
    start = ("--domain", "open-vocab", "--task", "detection", "--data", data, "--start", f"hf:{folders(name)}")
    quick = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--json", "--out", tmp_path)
    fitted = vladapt("fit", *start, *quick)
    assert "mask_AP" in fitted["adapted"] or "segm_AP" in fitted["adapted"], fitted["adapted"]
