"""`vladapt export` of detectors and segmentors: a graph and a script that find what the run finds; and `vladapt serve`
of runs and exports, which answers as `predict` and the script do."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

FITTING = """
fit = dict(type="vladapt.FitImage", scale=(64, 40))
test_pipeline = [dict(type="vladapt.LoadItemImage"), fit, dict(type="Pack{}Inputs")]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""
TOWER = """
vision = dict(type="ResNet", depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3), norm_eval=False,
              norm_cfg=dict(type="GN", num_groups=2))
"""
WITHOUT_POSITIONS = {
    "segmentation": TOWER
    + """
model.update(backbone=vision)
model["decode_head"].update(in_channels=[8, 16, 32, 64], feature_strides=[4, 8, 16, 32])
""",
    "detection": TOWER
    + """
model.update(backbone=vision, neck=dict(type="FPN", in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5))
model["bbox_head"]["anchor_generator"].update(strides=[4, 8, 16, 32, 64])
""",
}
ALONE = (
    "import runpy, sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'vladapt', 'mmdet', 'cv2'))); "
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)
"""A script where these cannot be imported."""


@pytest.fixture(scope="module")
def data(squares):
    return squares()


@dataclass(frozen=True)
class Made:
    """A run, its export, and what the command said of that."""

    run: str
    folder: Path
    told: dict


@pytest.fixture(scope="module")
def made(command, tiny, data, place):
    """made(task): fitted and exported once."""
    done: dict[str, Made] = {}

    def make(task: str) -> Made:
        if task not in done:
            config = tiny(task, FITTING.format("Seg" if task == "segmentation" else "Det") + WITHOUT_POSITIONS[task])
            run = command("fit", "--config", config, "--data", data, "--epochs", 1, "--json").json["run"]
            told = command("export", run, "--out", task, "--json").json
            done[task] = Made(run, place / task, told)
        return done[task]

    return make


def _asked(folder, *arguments) -> list[dict]:
    command = [sys.executable, "-I", "-c", ALONE, folder / "predict.py", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.thorough
def test_a_segmentor_alone_gives_the_maps_of_its_run(command, made, data, place):
    run, folder, told = vars(made("segmentation")).values()
    assert told["files"] == ["export.json", "model.onnx", "pictures.py", "predict.py"]
    assert told["checks"]["pixels"]["of_logit_range"] < 1e-4 and told["checks"]["files"]["same_pixels"] == 1
    assert told["licences"] == {"weights": "unknown", "data": "unknown"}
    wide = place / "wide.png"
    Image.fromarray(np.tile(np.asarray(Image.open(data / "images" / "01.png")), (2, 3, 1))).save(wide)
    images = [data / "images" / "01.png", wide]
    wanted = command("predict", run, *images, "--json").json["predictions"]
    found = _asked(folder, *images, "--out", place / "found", "--masks")
    for one, other in zip(found, wanted, strict=True):
        assert one["shares"] == pytest.approx(other["shares"], abs=0.001)
        assert one["masks"] == other["masks"] and one["summary"] == other["summary"]
    assert np.asarray(Image.open(found[1]["map"])).shape == (96, 144)


def test_a_detector_alone_gives_the_boxes_of_its_run(command, made, data):
    run, folder, told = vars(made("detection")).values()
    checks = told["checks"]
    assert checks["pixels"]["of_output_range"] < 1e-4 and checks["files"]["same_boxes"] > 0.98
    image = data / "images" / "01.png"
    (wanted,) = command("predict", run, image, "--json").json["predictions"]
    (found,) = _asked(folder, image)
    assert len(found["boxes"]) == 9 and found["labels"] == wanted["labels"]
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=0.5)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-3)
    assert found["summary"] == wanted["summary"]


def test_a_tower_whose_positions_are_interpolated_is_refused_in_a_line(command, tiny, data, place, capfd):
    run = command("fit", "--config", tiny("detection"), "--data", data, "--epochs", 1, "--json").json["run"]
    told = command("export", run, "--out", "refused").error
    assert "ONNX cannot express this model" in told and told.endswith("predict with the run")
    assert not (place / "refused").exists() and capfd.readouterr().out == ""


# Served


@pytest.fixture
def serving(tmp_path):
    """A context with a client of a server of a run or an export: `with serving(place) as client`."""
    testclient = pytest.importorskip("starlette.testclient", reason="the client of starlette's tests is not installed")
    pytest.importorskip("prometheus_client", reason="extra serve is not installed")
    from vladapt.core.contracts.serving import Serving
    from vladapt.core.engine.serve import load_export, load_served
    from vladapt.core.serving.app import Access, build_app
    from vladapt.core.serving.desk import Desk
    from vladapt.core.serving.uploads import Limits

    @contextmanager
    def serve(place, **how):
        load = load_export if (Path(place) / "export.json").is_file() else load_served
        model = load(Path(place), Serving(device="cpu", threads=1, **how))
        assert len(model.examples(2)) == 2
        desk = Desk(model, 4, Limits(), tmp_path, 2, print)
        with testclient.TestClient(build_app(desk, Access()), base_url="http://127.0.0.1:8000") as client:
            yield client

    return serve


def _sent(*files) -> list:
    return [("files", (Path(file).name, Path(file).read_bytes())) for file in files]


def _rows(client, *files, **options) -> list[dict]:
    answer = client.post("/predict", files=_sent(*files), params=options)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def _named(rows: list[dict]) -> list[dict]:
    return [{**row, "id": Path(row["id"]).name} for row in rows]


@pytest.fixture
def turned(data, tmp_path):
    """A photograph that lies on its side, as its EXIF orientation says, and the same upright."""
    lying, upright = tmp_path / "lying.jpg", tmp_path / "upright.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(data / "images" / "02.png").crop((0, 0, 48, 30)).save(lying, exif=exif, quality=95)
    Image.open(lying).transpose(Image.Transpose.ROTATE_270).save(upright)
    return lying, upright


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_served_run_answers_as_predict_does(task, command, made, data, serving, turned, tmp_path):
    run, names = made(task).run, "blue square, red square"
    images = [data / "images" / "01.png", *turned]
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"\x89PNG\r\n\x1a\nabc")
    alone = tmp_path / "copied"
    shutil.copytree(run, alone)
    kept = (alone / "run.json").read_text()
    (alone / "run.json").write_text(kept.replace(data.name, "gone"))
    assert "gone" in (alone / "run.json").read_text(), "a server needs no data of the fit"
    with serving(alone, max_pixels=48 * 48) as client:
        wanted = command("predict", run, *images, "--json").json
        answer = client.post("/predict", files=_sent(*images, torn)).json()
        assert answer["predictions"] == _named(wanted["predictions"]) and answer["run"] == "copied"
        assert [name for name, _ in answer["skipped"]] == ["torn.png"]
        lying, upright = answer["predictions"][1:]
        same = {key: value for key, value in lying.items() if key != "id"}
        assert same == {key: value for key, value in upright.items() if key != "id"}, "in pixels of the upright picture"
        if task == "segmentation":
            assert {tuple(mask["size"]) for mask in lying["masks"].values()} == {(48, 30)}
        wanted = command("predict", run, *images, "--classes", names, "--json").json["predictions"]
        assert _rows(client, *images, classes=names) == _named(wanted)
        assert _rows(client, *images) == answer["predictions"], "names of one request are of no other"

        facts = client.get("/model").json()
        assert (facts["task"], facts["any_names"]) == (task, True) and "red square" in facts["class_names"]
        assert facts["options"] == (["score", "classes"] if task == "detection" else ["classes"])
        large = io.BytesIO()
        Image.new("RGB", (49, 48)).save(large, "PNG")
        assert client.post("/predict", files=[("files", ("a.png", large.getvalue()))]).status_code == 413
        for wrong in ({"classes": ","}, {"classes": "a, A"}, {"top": 3}, {"score": "much"}):
            refused = client.post("/predict", files=_sent(images[0]), params=wrong)
            assert refused.status_code == 400 and "\n" not in refused.json()["error"]
        assert 'vladapt_requests_total{status="200"} 3.0' in client.get("/metrics").text


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_served_export_answers_as_its_script_does(task, made, data, serving, turned):
    images = [data / "images" / "01.png", *turned]
    folder = made(task).folder
    wanted = _asked(folder, *images, *(["--masks"] if task == "segmentation" else []))
    with serving(folder) as client:
        found = _rows(client, *images)
        one = found[0]["labels"][0] if task == "detection" else "red square"
        chosen = _rows(client, images[0], classes=one)[0]
        unknown = client.post("/predict", files=_sent(images[0]), params={"classes": "red sqare"})
        assert unknown.status_code == 400 and "did you mean red square" in unknown.json()["error"]
        facts = client.get("/model").json()
    assert (facts["task"], facts["any_names"], facts["run"]) == (task, False, Path(made(task).run).name)
    if task == "segmentation":
        assert found == _named(wanted)
        assert list(chosen["shares"]) == [name for name in found[0]["shares"] if name == one]
        return
    for row, other in zip(found, _named(wanted), strict=True):
        assert (row["id"], row["labels"], row["summary"]) == (other["id"], other["labels"], other["summary"])
        np.testing.assert_allclose(row["boxes"], other["boxes"], atol=0.02)
        np.testing.assert_allclose(row["scores"], other["scores"], atol=2e-5)
    assert chosen["boxes"] == [box for box, name in zip(found[0]["boxes"], found[0]["labels"]) if name == one] != []
    with serving(made(task).run) as client:
        assert client.get("/model").json()["score"] == facts["score"]
    least = sorted(found[0]["scores"])[4]
    with serving(folder) as client:
        assert _rows(client, images[0], score=least)[0]["scores"] == [s for s in found[0]["scores"] if s >= least]


def test_exports_that_cannot_be_asked_are_refused_in_a_line(made, tmp_path):
    from vladapt.core.contracts.serving import Serving
    from vladapt.core.engine.serve import load_export
    from vladapt.core.errors import VladaptError

    for task, change, words in (
        ("detection", {"boxes": {}}, "damaged, boxes is not usable"),
        ("detection", {"class_names": ["a"]}, "damaged, boxes is not usable"),
        ("detection", {"class_names": []}, "damaged, class_names is not usable"),
        ("detection", {"graphs": {"model": "../model.onnx"}}, "damaged, graphs is not usable"),
        ("detection", {"score": 2}, "damaged, boxes is not usable"),
        ("detection", {"script": "../boxes.py"}, "made to answers in a way that serve does not know"),
        ("segmentation", {"preprocessing": {"largest": [0, 4]}}, "damaged, preprocessing is not usable"),
        ("segmentation", {"threshold": "0.5"}, "damaged, maps is not usable"),
    ):
        folder = tmp_path / "changed"
        shutil.copytree(made(task).folder, folder, dirs_exist_ok=True)
        facts = json.loads((folder / "export.json").read_text())
        (folder / "export.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(VladaptError) as refused:
            load_export(folder, Serving(threads=1))
        assert words in str(refused.value)
