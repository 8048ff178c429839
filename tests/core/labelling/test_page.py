"""The addresses of the page: only with its token, only one page, every answer written."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="extra labels is not installed")
pytest.importorskip("httpx", reason="the client of starlette's tests is not installed")

from starlette.testclient import TestClient

from vladapt.core.data.label_files import TableSource, Todo, read_answers, todo_text
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.labelling.options import LabelOptions
from vladapt.core.labelling.serve import open_labelling, serve_labels
from vladapt.core.runtime.local_page import GONE_AFTER_S, NO_TOKEN, TWO_PAGES, app_of

TOKEN = "token-of-the-test"
ADDRESS = "http://127.0.0.1:5000"


@pytest.fixture
def labelling(todo):
    made = open_labelling(todo(), todo().parent / "labels.csv", LabelOptions(labeller="me"))
    yield made
    made.answers.close()


@pytest.fixture
def client(labelling):
    return TestClient(app_of(labelling, TOKEN), base_url=ADDRESS, headers={"X-Token": TOKEN})


def post(client, path, page="one", **body):
    return client.post(path, json={"page": page, **body})


def test_nothing_is_shown_without_the_token(labelling):
    plain = TestClient(app_of(labelling, TOKEN), base_url=ADDRESS)
    for path in ("/", "/page.js", "/stills/0", "/still/0/0", "/guess/0", "/?token=", "/?token=wrong"):
        answer = plain.get(path)
        assert answer.status_code == 403 and answer.text == NO_TOKEN
    for path in ("/open", "/answer", "/undo"):
        assert plain.post(path, json={"page": "one", "image": 0, "labels": ["cat"], "answer": ""}).status_code == 403
    assert not labelling.answers.path.exists()
    assert plain.get(f"/?token={TOKEN}").status_code == 200


def test_other_hosts_are_refused(labelling):
    assert (
        TestClient(app_of(labelling, TOKEN), base_url="http://evil.example").get(f"/?token={TOKEN}").status_code == 400
    )


def test_each_start_has_a_new_token_in_no_file_and_listens_here_alone(todo, monkeypatch):
    uvicorn = pytest.importorskip("uvicorn", reason="extra labels is not installed")
    places, addresses = [], []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: places.append(sockets[0].getsockname()[0]))
    for _ in range(2):
        serve_labels(
            todo(), todo().parent / "labels.csv", LabelOptions(), lambda address, *_: addresses.append(address)
        )
    tokens = [address.partition("?token=")[2] for address in addresses]
    assert places == ["127.0.0.1"] * 2 and len(set(tokens)) == 2 and min(map(len, tokens)) >= 20
    texts = [file.read_bytes() for file in todo().parent.rglob("*") if file.is_file()]
    assert not any(token.encode() in text for token in tokens for text in texts)


def test_the_page_names_nothing_outside(client):
    page = client.get("/")
    parts = [client.get(path).text for path in ("/page.js", "/page.css")]
    assert TOKEN in page.text and "TOKEN" not in page.text.replace(TOKEN, "")
    assert not any("//" in text.replace("// ", "") for text in (page.text, *parts))
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["Referrer-Policy"] == "no-referrer" and page.headers["Cache-Control"] == "no-store"


def test_answers_are_written_and_a_reload_finds_them(client, labelling):
    assert post(client, "/open").json()["images"][3] == {"labels": [], "answer": ""}
    post(client, "/answer", image=3, labels=["owl"], answer="")
    post(client, "/answer", image=4, labels=[], answer="none of these")
    assert [row.id for row in read_answers(labelling.answers.path)[0]] == ["03.png", "04.png"]
    images = post(client, "/open").json()["images"]
    assert images[3]["labels"] == ["owl"] and images[4]["answer"] == "none of these"
    assert post(client, "/undo").json() == {"image": 4}
    assert len(read_answers(labelling.answers.path)[0]) == 1


def test_a_second_page_is_refused_until_the_first_is_gone(client, labelling):
    now = [0.0]
    labelling.clock = lambda: now[0]
    post(client, "/open", "one")
    refused = post(client, "/open", "two")
    assert refused.status_code == 409 and refused.json() == {"error": TWO_PAGES}
    answer = post(client, "/answer", "two", image=0, labels=["cat"], answer="")
    assert answer.status_code == 409 and not labelling.answers.path.exists()
    now[0] = GONE_AFTER_S + 1
    assert post(client, "/open", "two").status_code == 200
    assert post(client, "/answer", "one", image=0, labels=["cat"], answer="").json() == {"error": TWO_PAGES}
    post(client, "/leave", "two")
    assert post(client, "/open", "one").status_code == 200


def test_the_guess_is_told_when_it_is_asked_for(client):
    assert "dog" not in client.get("/stills/1").text
    assert client.get("/guess/1").json() == {"guess": "dog", "confidence": 0.5, "given": ""}


def test_pictures_are_shown_as_they_are(client):
    assert client.get("/stills/5").json() == {"names": ["image"]}
    picture = np.asarray(Image.open(io.BytesIO(client.get("/still/5/0").content)))
    assert picture.shape == (12, 16, 3) and (picture == 40).all()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/answer", {"image": 99, "labels": ["cat"], "answer": ""}),
        ("/answer", {"image": True, "labels": ["cat"], "answer": ""}),
        ("/answer", {"image": 0, "labels": ["cat", "dog"], "answer": ""}),
        ("/answer", {"image": 0, "labels": "cat", "answer": ""}),
        ("/answer", {"image": 0, "labels": [], "answer": ""}),
        ("/answer", {}),
    ],
)
def test_what_is_no_answer_is_one_line(client, labelling, path, body):
    answer = post(client, path, **body)
    assert answer.status_code == 400 and "\n" not in answer.json()["error"]
    assert not labelling.answers.path.exists()


def test_what_is_no_request_is_one_line(client):
    for content in (b"", b"[]", b"{", b'{"page": 3}', b"x" * 70_000):
        assert client.post("/open", content=content).status_code == 400
    assert client.get("/still/0/9").status_code == 400 and client.get("/stills/99").status_code == 400
    assert client.get("/still/0/-1").status_code == 404


def test_a_list_whose_images_are_gone_is_refused_and_the_file_is_free(todo, pool):
    table = todo()
    (pool / "07.png").unlink()
    with pytest.raises(DataError, match=r"'07.png' is no longer in the data"):
        open_labelling(table, table.parent / "labels.csv", LabelOptions())
    open_labelling(todo(5), table.parent / "labels.csv", LabelOptions()).answers.close()


def test_several_labels_are_not_for_doubted_ones(tmp_path):
    source = TableSource("sample", "natural", "classification", ("cat", "dog"), labelled=True)
    (tmp_path / "todo.csv").write_text(todo_text([Todo("cat/0.png", "suspect")], source))
    with pytest.raises(ConfigError, match="--several"):
        open_labelling(tmp_path / "todo.csv", tmp_path / "labels.csv", LabelOptions(several=True))
