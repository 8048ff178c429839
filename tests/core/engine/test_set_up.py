"""A backbone is fetched once, from a hub on this machine, and is here from then on."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt.core.engine import set_up as module
from vladapt.core.engine.set_up import set_up
from vladapt.core.errors import DataError


class _Hub(BaseHTTPRequestHandler):
    """A hub of one repository; `served` counts the files that it sent."""

    files: dict[str, bytes]
    served: list[str]

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        name = self.path.rpartition("/")[2]
        content = b"" if self.path.count("/") < 2 else self.files.get(name)
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content:
            self.served.append(name)
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The files that a hub on this machine holds, and the names of those that were sent."""
    from huggingface_hub import constants

    handler = type("Handler", (_Hub,), {"files": {}, "served": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def weights(small_clip_spec):
    """(configuration, weights) of a tiny CLIP."""
    config, file = small_clip_spec.removeprefix("open_clip:").split("@")
    return json.loads(open(config).read()), load_file(file)


def put(hub, config, tensors, tmp_path):
    save_file(tensors, tmp_path / "weights.safetensors")
    hub.files["open_clip_config.json"] = json.dumps({"model_cfg": config, "preprocess_cfg": {}}).encode()
    hub.files["open_clip_model.safetensors"] = (tmp_path / "weights.safetensors").read_bytes()


SPEC = "open_clip:hf-hub:someone/tiny"


def test_it_is_fetched_once_and_is_here_when_the_hub_is_gone(hub, weights, tmp_path, monkeypatch):
    put(hub, *weights, tmp_path)
    made = set_up(SPEC, "cpu")
    assert (made.backbone, made.width, made.licence) == (SPEC, weights[0]["embed_dim"], "unknown")
    assert 0 <= made.colours_named <= 3
    sent = len(hub.served)
    assert "open_clip_model.safetensors" in hub.served
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    assert set_up(SPEC, "cpu").colours_named == made.colours_named
    hub.files.clear()
    assert set_up(SPEC, "cpu").seconds == 0 and len(hub.served) == sent


def test_damaged_weights_are_refused(hub, weights, tmp_path):
    config, tensors = weights
    put(hub, config, {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}, tmp_path)
    with pytest.raises(DataError, match="holds NaN; copy or download the weights again"):
        set_up(SPEC, "cpu")


def test_what_may_be_done_is_told_by_the_licence(monkeypatch, small_clip_spec):
    plain = set_up(small_clip_spec, "cpu")
    assert plain.fetched is None and plain.commercial.startswith("not forbidden")
    load = module.load_backbone

    def non_commercial(*how):
        backbone = load(*how)
        backbone.licence = "CC BY-NC 4.0"
        return backbone

    monkeypatch.setattr(module, "load_backbone", non_commercial)
    assert set_up(small_clip_spec, "cpu").commercial == "no"
