"""Runs of methods that answer by the parts of one sample: exported, and served, they answer as the run does."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import vladapt
from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.core.confidence import Calibration
from vladapt.core.contracts.serving import Sample, Serving
from vladapt.core.engine.serve import load_export, load_served
from vladapt.core.features.bag_files import open_bag, write_bag
from vladapt.core.serving.app import Access, build_app
from vladapt.core.serving.desk import Desk
from vladapt.core.serving.uploads import Limits
from vladapt.core.tasks.classification.exporting import Head
from vladapt.core.tasks.classification.exporting_bags import BagGraph
from vladapt.core.tasks.classification.serving import ServedBags

pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")

from vladapt.core.export import Graph
from vladapt.core.export.folder import Session

WIDTH, NAMES = 6, ("no", "yes")
TEXTS = TextClassifier(torch.eye(2, WIDTH), class_names=NAMES)


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Parts (N, T, D), how many there are of each (N,), labels (N,), and which part makes the second class (N,)."""
    rng = np.random.default_rng(seed)
    parts, labels = rng.normal(size=(count, 14, WIDTH)).astype(np.float32), np.arange(count) % 2
    counts, planted = rng.integers(8, 15, count), rng.integers(0, 8, count)
    parts[labels == 1, planted[labels == 1], 0] += 8
    parts[np.arange(14) >= counts[:, None]] = 0
    return parts, counts, labels, planted


def fitted(name: str, **options):
    parts, counts, labels, _ = drawn(24, seed=0)
    mask = torch.arange(14) < torch.from_numpy(counts)[:, None]
    support = FeatureSet.of_parts(torch.from_numpy(parts), mask, labels=torch.from_numpy(labels), class_names=NAMES)
    adapter = build_adapter(name, **options)
    adapter.fit(support, TEXTS, seed=0)
    return adapter, support


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("abmil", {"epochs": 1, "embed": 5}),
        ("clam", {"epochs": 1, "branches": True}),
        ("trans-mil", {"epochs": 1, "width": 8}),
        ("trans-mil", {"epochs": 1, "width": 8, "most_parts": 9}),
        ("vila-mil", {"epochs": 1, "prototypes": 3}),
        ("top-k", {"k": 3}),
        ("top-k", {"k": 0}),
    ],
)
def test_a_graph_answers_as_the_calibrated_method_whatever_the_number_of_parts(name, options, tmp_path):
    adapter, support = fitted(name, **options)
    logits = adapter.logits(support)
    calibration = Calibration.of_rows(logits, support.labels, NAMES, "some rows")
    module = BagGraph(Head(adapter, calibration)).eval()
    weighs = adapter.deciding(support.bags[0]) is not None
    outputs = ["logits", *(["attention"] * weighs)]
    Graph(module, {"bag": torch.randn(12, WIDTH)}, outputs, {"bag": ()}).write(tmp_path / "bag.onnx", 18, {})
    ask = Session(tmp_path / "bag.onnx")
    wanted = calibration.scaling.logits(logits).float()
    for row in range(4):
        bag = support.bags[row]
        answer = ask(bag=bag.numpy())
        np.testing.assert_allclose(answer["logits"][0], wanted[row], atol=1e-4, rtol=1e-4)
        if weighs:
            np.testing.assert_allclose(answer["attention"], adapter.deciding(bag), atol=1e-5)
    for count in (1, 2, 5, 40):
        bag = torch.randn(count, WIDTH)
        np.testing.assert_allclose(ask(bag=bag.numpy())["logits"], module(bag)[0], atol=1e-4, rtol=1e-4)


def test_two_magnifications_are_exported_and_served_from_one_file(tmp_path, client):
    """Each tile of the lower magnification is the mean of two of the higher one; the texts stand at each."""
    rng, labels = np.random.default_rng(0), np.arange(24) % 2
    for name in ("fine", "coarse"):
        (tmp_path / name).mkdir()
    table = ["slide_id,label"]
    for number, label in enumerate(labels):
        fine = torch.from_numpy(rng.normal(size=(8 + 2 * (number % 3), WIDTH)).astype(np.float32))
        fine[0, 0] += 8 * int(label)
        for name, rows, side in (("fine", fine, 100), ("coarse", fine.view(-1, 2, WIDTH).mean(dim=1), 200)):
            places = np.arange(2 * len(rows)).reshape(-1, 2) * side
            write_bag(tmp_path / name / f"s{number:02d}.safetensors", rows, places, {"side": 100, "level0_side": side})
        table.append(f"s{number:02d},{NAMES[label]}")
    (tmp_path / "table.csv").write_text("\n".join(table))
    np.savez(tmp_path / "texts.npz", class_names=np.array(NAMES), text_features=np.eye(2, WIDTH, dtype=np.float32))
    paths = {"path": "table.csv", "bags": "fine", "coarse_bags": "coarse", "class_texts": "texts.npz"}
    data = {name: str(tmp_path / path) for name, path in paths.items()}
    adapter = {"name": "vila-mil", "epochs": 2, "prototypes": 3, "lr": 1e-2}
    how = {"adapter": adapter, "shots": 4, "device": "cpu", "judge": False, "out": str(tmp_path / "runs")}
    made = vladapt.fit(domain="medical", data=data, **how)
    files = sorted((tmp_path / "fine").iterdir())[:6]
    answers = vladapt.predict(made.run, [str(file) for file in files], device="cpu").rows()
    vladapt.export(made.run, out=tmp_path / "model")
    for file in files:
        fine, coarse = (open_bag(tmp_path / name / file.name) for name in ("fine", "coarse"))
        arrays = {"features": fine.read(0), "coords": fine.coords(0), "coarse": coarse.read(0)}
        np.savez(tmp_path / f"{file.stem}.npz", **{name: np.asarray(each) for name, each in arrays.items()})
    script = [sys.executable, "-I", tmp_path / "model" / "predict.py", *(f"{file.stem}.npz" for file in files)]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    for row, line in zip(answers, done.stdout.splitlines(), strict=True):
        assert json.loads(line)["confidence"] == pytest.approx(row["confidence"], abs=1e-4)
    content = (tmp_path / f"{files[1].stem}.npz").read_bytes()
    for load, folder in ((load_served, made.run), (load_export, tmp_path / "model")):
        with client(load, folder) as asked:
            (row,) = asked.post("/predict", files={"f": ("s.npz", content)}).json()["predictions"]
            assert row["label"] == answers[1]["label"] and len(row["parts"]) == 5
            assert row["confidence"] == pytest.approx(answers[1]["confidence"], abs=1e-4)
            refused = asked.post("/predict", files={"f": ("s.npz", npz(features=np.zeros((3, WIDTH), np.float32)))})
            assert refused.status_code == 422 and "lacks the array 'coarse'" in refused.json()["error"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on stored parts, and the folder that it was exported into."""
    folder = tmp_path_factory.mktemp("bags")
    parts, counts, labels, _ = drawn(60, seed=0)
    mask = np.arange(14) < counts[:, None]
    texts = np.eye(2, WIDTH, dtype=np.float32)
    rows = {"labels": labels, "class_names": np.array(NAMES), "text_features": texts, "ids": np.arange(60).astype(str)}
    np.savez(folder / "bags.npz", image_parts=parts, parts_mask=mask, **rows)
    options = {"epochs": 6, "lr": 5e-3, "embed": 0, "hidden": 8, "class_weight": "none"}
    how = {"adapter": {"name": "abmil", **options}, "shots": "all", "seed": 0, "device": "cpu"}
    made = vladapt.fit(features=str(folder / "bags.npz"), out=str(folder / "runs"), **how)
    vladapt.export(made.run, out=folder / "model")
    vladapt.evaluate(made.run, split="all", out=folder / "scored")
    return made.run, folder / "model", folder / "scored"


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def sent(row: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts of a sample of the run, and where they lie."""
    parts, counts, _, _ = drawn(60, seed=0)
    return parts[row, : counts[row]], np.arange(2 * counts[row]).reshape(-1, 2) * 256


@pytest.fixture
def client(run, tmp_path):
    testclient = pytest.importorskip("starlette.testclient", reason="the client of starlette's tests is not installed")
    pytest.importorskip("prometheus_client", reason="extra serve is not installed")

    def of(load, folder, most_bytes: int = 1 << 20):
        model = load(Path(folder), Serving(device="cpu", threads=1, max_bytes=most_bytes))
        (tmp_path / "uploads").mkdir(exist_ok=True)
        app = build_app(Desk(model, 1, Limits(), tmp_path / "uploads", 1, print), Access(""))
        return testclient.TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    return of


def test_a_served_bag_is_answered_as_the_run_scored_it_and_names_the_planted_part(run, client):
    with (run[2] / "predictions.csv").open(newline="") as file:
        scored = {row["id"]: row for row in csv.DictReader(file)}
    _, _, labels, planted = drawn(60, seed=0)
    for load, folder in ((load_served, run[0]), (load_export, run[1])):
        with client(load, folder) as asked:
            first = 0
            for row in range(1, 21, 2):
                features, coords = sent(row)
                answer = asked.post("/predict", files={"f": ("s.npz", npz(features=features, coords=coords))}).json()
                (made,) = answer["predictions"]
                assert made["id"] == "s.npz" and made["label"] == scored[str(row)]["label"]
                assert made["confidence"] == pytest.approx(float(scored[str(row)]["confidence"]), abs=1e-4)
                weights = [each["weight"] for each in made["parts"]]
                assert weights == sorted(weights, reverse=True) and len(weights) == 5 and labels[row] == 1
                best = made["parts"][0]
                assert (best["x"], best["y"]) == tuple(coords[best["part"]])
                first += best["part"] == planted[row]
            assert first >= 9
            halves = save({"features": sent(1)[0].astype(np.float16)})
            made = asked.post("/predict", files={"f": ("s.safetensors", halves)}).json()["predictions"][0]
            assert made["parts"][0]["part"] == planted[1] and "x" not in made["parts"][0]


def test_the_parts_of_a_served_bag_are_those_of_the_calibrated_answer_and_weighed_once():
    asked = []

    class Weighing:
        multilabel_ = True

        def bag_logits(self, bag):
            return torch.tensor([2.0, 1.0])

        def deciding(self, bag):
            asked.append(len(bag))
            return torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.2, 0.7]])

    scaling = SimpleNamespace(probabilities=lambda logits: (logits + torch.tensor([-5.0, 5.0])).sigmoid())
    served = ServedBags.__new__(ServedBags)
    served.predictor, served._device = SimpleNamespace(adapter=Weighing(), calibration=scaling), torch.device("cpu")
    rows = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    sample = Sample("s", None, SimpleNamespace(read=lambda: ((rows,), None)))
    served.answer([sample])
    assert sample.parts[0] == {"part": 2, "weight": 0.7} and asked == [3]
    np.testing.assert_allclose(sample.answer[1], rows.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("exported", [False, True])
def test_bad_bags_are_refused_in_a_line(run, client, exported):
    features = sent(1)[0]
    bad = {
        "wide.npz": (npz(features=features[:, :4]), 422, "features are 4 wide, the run takes 6"),
        "nan.npz": (npz(features=features * np.nan), 422, "NaN or infinity in row 0"),
        "empty.npz": (npz(features=features[:0]), 422, "(0, 6)"),
        "whole.npz": (npz(features=features.astype(int)), 422, "(parts, 6) floats are needed"),
        "other.npz": (npz(rows=features), 422, "lacks the array 'features'"),
        "code.npz": (npz(features=np.array([print], dtype=object)), 422, "pickled objects, which are never opened"),
        "where.npz": (npz(features=features, coords=np.zeros((2, 2), int)), 422, "coords are int64 (2, 2)"),
        "cut.safetensors": (save({"features": features})[:-8], 422, "not a readable safetensors file"),
        "slide.svs": (b"II*\0", 422, "not slides or HDF5"),
        "bag.h5": (b"\x89HDF\r\n\x1a\n", 422, "not slides or HDF5"),
        "large.npz": (npz(features=np.zeros((800, 6), np.float32)), 413, "raise --max-mb"),
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, features=np.zeros((100_000, 6), np.float32))
    bad["bomb.npz"] = (packed.getvalue(), 413, "2 MB of features, the limit is 0")
    load, folder = (load_export, run[1]) if exported else (load_served, run[0])
    with client(load, folder, most_bytes=10_000) as asked:
        for name, (content, status, words) in bad.items():
            answer = asked.post("/predict", files={"f": (name, content)})
            assert answer.status_code == status, (name, answer.text)
            line = answer.json()["error"]
            assert words in line and "\n" not in line and line.count(name) == 1, (name, line)
        good = [("f", ("a.npz", npz(features=features))), ("f", ("b.npz", bad["nan.npz"][0]))]
        answer = asked.post("/predict", files=good).json()
        assert [row["id"] for row in answer["predictions"]] == ["a.npz"] and answer["skipped"][0][0] == "b.npz"


def test_the_script_reads_each_kind_of_file_and_says_the_same(run, tmp_path):
    h5py = pytest.importorskip("h5py", reason="extra slides is not installed")
    features, coords = sent(3)
    (tmp_path / "a.npz").write_bytes(npz(features=features, coords=coords))
    (tmp_path / "b.safetensors").write_bytes(save({"features": features, "coords": coords}))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["features"], file["coords"] = features[None], coords
    bad = {
        "d.npz": npz(features=features[:, :2]),
        "cut.npz": npz(features=features)[:-30],
        "cut.h5": b"\x89HDF\r\n\x1a\n",
    }
    bad |= {"cut.h5": b"\x89HDF\r\n\x1a\n", "cut.safetensors": save({"features": features})[:-8]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("features")
    names, bad = ["a.npz", "b.safetensors", "c.h5"], [*bad, "group.h5"]
    done = subprocess.run(
        [sys.executable, "-I", run[1] / "predict.py", *bad, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    rows, faults = [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()
    assert [row.pop("id") for row in rows] == names and rows[0] == rows[1] == rows[2] and rows[0]["parts"]
    assert done.returncode == 1 and [line.partition(":")[0] for line in faults] == bad
    assert "features are float32 (" in faults[0] and all("; replace it or leave it out" in line for line in faults)
