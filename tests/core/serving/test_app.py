"""What is answered, and what is refused in one line: wrong requests, files that are no pictures, other sites."""

from __future__ import annotations

import io
import json
import pickle
import runpy
import shutil
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from vladapt.core.contracts.serving import Sample, Serving
from vladapt.core.engine.serve import serve
from vladapt.core.errors import ConfigError, DataError, VladaptError
from vladapt.core.serving.app import NO_TOKEN, OTHER_HOST, OTHER_SITE
from vladapt.core.serving.exported import ServedExport
from vladapt.core.serving.uploads import Limits

TOKEN = "token-of-the-test"


def files(*named):
    return [("files", (name, content)) for name, content in named]


def bomb(side: int = 60_000) -> bytes:
    """A PNG of few bytes that says it has very many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Evil:
    def __reduce__(self):
        return open, ("/tmp/vladapt-was-here", "w")


def test_pictures_are_answered_in_their_order_by_the_names_that_they_came_with(serving, picture):
    with serving() as (client, _):
        sent = files(("an x-ray of Ann.png", picture("blue")), ("b.jpg", picture("green", "JPEG")), ("b.jpg", b"abc"))
        answer = client.post("/predict?coverage=0.9&top=2", files=sent)
        assert answer.status_code == 200, answer.text
        first, second = answer.json()["predictions"]
        assert (first["id"], first["label"], first["set"]) == ("an x-ray of Ann.png", "blue", ["blue"])
        assert (second["id"], second["label"], second["unlike"]) == ("b.jpg", "green", False)
        assert first["top"][0]["class"] == "blue" and len(first["top"]) == 2
        why = "b.jpg: not an image, despite its name; replace it or leave it out"
        assert answer.json()["skipped"] == [["b.jpg", why]]
        counted = client.get("/metrics").text
        assert 'vladapt_requests_total{status="200"} 1.0' in counted
        assert 'vladapt_images_total{outcome="answered"} 2.0' in counted and "Ann" not in counted
        assert client.get("/model").json()["class_names"] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("torn.png", b"\x89PNG\r\n\x1a\n" + b"0" * 40, "torn.png: "),
        ("empty.png", b"", "empty.png: empty file (0 bytes)"),
        ("model.pkl", pickle.dumps(Evil()), "model.pkl: not an image, despite its name"),
        ("../../etc/passwd", b"root", "../../etc/passwd: not an image"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "page.eps: not an image"),
        ("turned\u202e.png\x1b[2J", b"abc", "turned\\u202e.png"),
    ],
)
def test_what_is_no_picture_is_refused_in_the_line_of_predict(name, content, words, serving, tmp_path):
    with serving() as (client, told):
        answer = client.post("/predict", files=files((name, content)))
        assert answer.status_code == 422 and told == []
        line = answer.json()["error"]
        assert line.startswith("no readable image among what was given; ") and words in line and "\n" not in line
        assert str(tmp_path) not in line


def test_files_lie_under_numbers_and_keep_of_their_names_the_ending_alone(serving, export, picture, tmp_path):
    class Watched(ServedExport):
        def samples(self, files):
            places.extend(file.relative_to(tmp_path / "uploads") for file in files)
            return super().samples(files)

    places = []
    with serving(Watched(export, Serving(threads=1))) as (client, _):
        sent = files(("../../Ann.png", picture()), ("/etc/passwd", picture()), ("Ann\0.b/c.nii.gz", picture()))
        assert client.post("/predict", files=sent).status_code == 200
    assert [place.parts[1:] for place in places] == [("0", "image.png"), ("1", "image"), ("2", "image.nii.gz")]


def test_bombs_and_large_requests_are_413(serving, picture):
    with serving(limits=Limits(request_bytes=20_000, files=3), max_pixels=10_000) as (client, _):
        for content, words in (
            (bomb(), "PNG of 60000 x 60000 pixels, the limit is 10000 (a decompression bomb?)"),
            (picture(side=101), "PNG of 101 x 101 pixels, the limit is 10000"),
            (b"0" * 30_000, "the request is larger than"),
        ):
            answer = client.post("/predict", files=files(("a.png", content)))
            assert answer.status_code == 413 and words in answer.json()["error"]
        answer = client.post("/predict", files=files(*[("a.png", picture())] * 4))
        assert answer.status_code == 413 and answer.json()["error"].startswith("more than 3 files in a request")
        head = {"Content-Type": "multipart/form-data; boundary=x"}
        chunks = (b"--x\r\n" if n == 0 else b"0" * 5000 for n in range(9))  # of no stated length
        answer = client.post("/predict", content=chunks, headers=head)
        assert answer.status_code == 413
        assert client.post("/predict", files=files(("a.png", picture()))).status_code == 200


def test_a_request_that_does_not_arrive_in_time_is_408(serving, picture):
    with serving(limits=Limits(seconds=0)) as (client, _):
        answer = client.post("/predict", files=files(("a.png", picture())))
        assert answer.status_code == 408 and answer.json() == {"error": "the request did not arrive within 0 seconds"}


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"content": b"abc"}, 415, "send pictures as multipart/form-data"),
        ({"data": {"a": "b"}, "files": {"c": ("", b"")}}, 400, "not a file"),
        (
            {"params": {"coverge": 0.9}},
            400,
            "'coverge' is not an option of /predict; did you mean coverage or coverage_per?",
        ),
        ({"params": {"coverage": 0.5}}, 400, "--coverage 0.5: the export has 0.9"),
        ({"params": {"coverage": 0.9, "coverage_per": "image"}}, 400, "--coverage-per image: the export has no such"),
        ({"params": {"coverage": [0.9, 0.9]}}, 400, "coverage: occurs twice in the address; give it once"),
        ({"params": {"coverage": "nan"}}, 400, "coverage=nan: give a number"),
        ({"params": {"prompts": "{}"}}, 400, 'prompts={}: give a list as JSON, [{"box": [x0, y0, x1, y1]}]'),
        ({"params": {"prompts": "[" * 2000}}, 400, "give a list as JSON"),
        ({"params": {"top": "0"}}, 400, "--top 0: give a number of classes"),
        ({"params": {"max_error": 0.1}}, 400, "--max-error: an export cannot do that"),
        ({"params": {"per_patient": "mean"}}, 400, "--per-patient mean: this export cannot do that; serve the run"),
        ({"params": {"threshold": 0.5}}, 400, "--threshold: for two classes or several labels; omit it"),
        ({"headers": {"Sec-Fetch-Site": "cross-site"}}, 403, OTHER_SITE),
        ({"headers": {"Host": "evil.example"}}, 400, OTHER_HOST),
    ],
)
def test_wrong_requests_are_told_in_one_line(request_, status, words, serving, picture):
    request_ = request_ if "content" in request_ or "data" in request_ else {"files": [], **request_}
    if request_.get("files") == []:
        request_["files"] = files(("a.png", picture()))
    with serving() as (client, _):
        answer = client.post("/predict", **request_)
        assert answer.status_code == status and words in answer.json()["error"], answer.text
        assert client.get("/predict").status_code == 405 and client.get("/nothing").json()["error"]


def test_all_but_health_need_the_token(serving, picture):
    with serving(token=TOKEN) as (client, _):
        sent = {"files": files(("a.png", picture()))}
        for path in ("/", "/page.js", "/model", "/metrics", "/?token=", "/?token=wrong"):
            answer = client.get(path)
            assert answer.status_code == 401 and answer.json() == {"error": NO_TOKEN}
        assert client.post("/predict", **sent).status_code == 401
        wrong = {"Authorization": "Bearer wrong"}
        assert client.post(f"/predict?token={TOKEN}", headers=wrong, **sent).status_code == 401
        assert client.get("/health").json() == {"status": "ok"}
        assert client.post("/predict", headers={"Authorization": f"Bearer {TOKEN}"}, **sent).status_code == 200
        page = client.get(f"/?token={TOKEN}")
        assert page.status_code == 200 and f"page.js?token={TOKEN}" in page.text


def test_the_page_names_nothing_outside(serving):
    with serving() as (client, _):
        page, *parts = (client.get(path) for path in ("/", "/page.js", "/page.css"))
        assert not any("//" in each.text.replace("// ", "") for each in (page, *parts))
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Cache-Control"] == "no-store" and page.headers["X-Content-Type-Options"] == "nosniff"


def test_a_fault_of_the_model_costs_no_other_its_answer_and_its_log_names_no_file(serving, export, picture):
    class Faulty(ServedExport):
        def answer(self, samples):
            if any(sample.prepared[0, 2].mean() > 0.5 for sample in samples):
                raise RuntimeError(f"cannot take {samples[0].id}, Ann's")
            super().answer(samples)

        def rows(self, samples, skipped, wishes):
            if wishes.top == 7:
                raise KeyError("Ann")
            return super().rows(samples, skipped, wishes)

    with serving(Faulty(export, Serving(threads=1))) as (client, told):
        sent = files(("ann.png", picture("blue")), ("b.png", picture("red")))
        answer = client.post("/predict", files=sent).json()
        assert [row["id"] for row in answer["predictions"]] == ["b.png"]
        assert answer["skipped"] == [["ann.png", "RuntimeError: cannot take ann.png, Ann's"]]
        assert client.post("/predict", files=sent[:1]).status_code == 500
        broken = client.post("/predict?top=7", files=sent)
        assert broken.status_code == 500 and "KeyError" in broken.json()["error"]
        assert len(told) == 4 and not any("nn" in line for line in told)


def test_an_export_has_the_sets_of_each_class_where_it_holds_them(serving, export, picture, tmp_path):
    facts = json.loads((export / "export.json").read_text())
    shutil.copytree(export, tmp_path / "model")
    rare = {"coverage_per": {"class": {"0.9": [0.2, 0.2, 0.0]}}}
    (tmp_path / "model" / "export.json").write_text(json.dumps({**facts, **rare}))
    with serving(ServedExport(tmp_path / "model", Serving(threads=1))) as (client, _):
        sets = [
            client.post("/predict", params=params, files=files(("a.png", picture("red")))).json()["predictions"][0][
                "set"
            ]
            for params in ({"coverage": 0.9}, {"coverage": 0.9, "coverage_per": "class"})
        ]
    assert sets == [["red"], ["red", "blue"]]
    with serving() as (client, _):  # of an earlier version
        params = {"coverage": 0.9, "coverage_per": "class"}
        refused = client.post("/predict", params=params, files=files(("a.png", picture("red"))))
    assert refused.status_code == 400 and "--coverage-per class: the export has no such sets" in refused.json()["error"]


def test_damaged_exports_are_refused(export, tmp_path):
    facts = json.loads((export / "export.json").read_text())
    for change, words in (
        ({"class_names": ["a", 3]}, "damaged, class_names is not usable"),
        ({"coverage": {"0.9": [0.1]}}, "damaged, coverage is not usable"),
        ({"coverage_per": {"class": {"0.9": [0.1]}}}, "damaged, coverage_per is not usable"),
        ({"graphs": {"pixels": "../model.onnx"}}, "damaged, graphs is not usable"),
        ({"preprocessing": {**facts["preprocessing"], "image_size": 10**9}}, "damaged, preprocessing is not usable"),
        ({"format": 99}, "not an export of this version"),
        ({"graphs": {"image": "image.onnx"}}, "no graph from pixels to classes, which serve needs; use its predict.py"),
    ):
        folder = tmp_path / "changed"
        shutil.copytree(export, folder, dirs_exist_ok=True)
        (folder / "export.json").write_text(json.dumps({**facts, **change}))
        with pytest.raises(VladaptError) as refused:
            ServedExport(folder, Serving(threads=1))
        assert words in str(refused.value)
    (folder / "export.json").write_text(json.dumps(facts))
    (folder / "model.onnx").write_bytes(b"abc")
    with pytest.raises(DataError, match="damaged graph"):
        ServedExport(folder, Serving(threads=1))


def test_an_export_has_no_labelled_images_to_name(export):
    with pytest.raises(ConfigError, match="an export holds no labelled images; omit --training-ids"):
        serve(export, port=0, training_ids=True)


def test_deep_pictures_are_read_as_the_script_reads_them(serving, export, tmp_path):
    from vladapt.core.export import standalone

    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 900).reshape(30, 30).astype(np.uint16)).save(buffer, "PNG")
    (tmp_path / "deep.png").write_bytes(buffer.getvalue())
    model = ServedExport(export, Serving(threads=1))
    sample = Sample("deep", tmp_path / "deep.png")
    model.prepare(sample)
    how = model._facts["preprocessing"]
    wanted = standalone.pixels(standalone.decoded(tmp_path / "deep.png"), how)
    np.testing.assert_allclose(sample.prepared, wanted, atol=1e-6)


def test_an_export_is_measured_in_seconds_of_the_processor(export):
    assert ServedExport(export, Serving(threads=1)).clock is time.process_time


def test_idle_threads_of_an_export_leave_the_cores_alone(export, picture, tmp_path, monkeypatch, capsys):
    import onnxruntime

    from vladapt.core.export import standalone

    made = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            made.append(self.get_session_options().get_session_config_entry("session.intra_op.allow_spinning"))

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    ServedExport(export, Serving(threads=1))
    folder = shutil.copytree(export, tmp_path / "model")
    shutil.copy(standalone.__file__, folder / "predict.py")
    (tmp_path / "green.png").write_bytes(picture("green"))
    monkeypatch.setattr("sys.argv", ["predict.py", str(tmp_path / "green.png")])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(folder / "predict.py"), run_name="__main__")
    assert json.loads(capsys.readouterr().out)["label"] == "green"
    assert made == ["0", "0"]
