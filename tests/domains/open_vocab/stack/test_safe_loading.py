"""mmengine's checkpoints load as weights only; what could run code does not."""

import os
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vladapt.core.errors import DataError

pytest.importorskip("mmdet")

from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def saved(tmp_path, **content):
    torch.save(content, tmp_path / "checkpoint.pth")
    return str(tmp_path / "checkpoint.pth")


def test_what_mmengine_saves_is_loaded(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    hub = {
        "log_scalars": OrderedDict(loss=history),
        "runtime_info": {"lr": np.float64(0.1), "classes": np.array(["a"])},
    }
    file = saved(tmp_path, message_hub=hub, state_dict=OrderedDict(w=torch.ones(2)), meta={"iter": 3})
    for load in (CheckpointLoader.load_checkpoint, lambda path: torch.load(path, weights_only=True)):
        found = load(file)["message_hub"]
        assert found["log_scalars"]["loss"].mean() == 2 and found["log_scalars"]["loss"].statistics("max") == 3
        assert found["runtime_info"]["lr"] == np.float64(0.1) and found["runtime_info"]["classes"].tolist() == ["a"]


def test_files_of_numpy_1_are_loaded(tmp_path):
    """There the same functions lay in `numpy.core`."""
    file = tmp_path / "old.pth"
    torch.save({"numbers": np.arange(3), "one": np.float64(2)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    found = CheckpointLoader.load_checkpoint(str(file))
    assert b"numpy.core.multiarray" in file.read_bytes()
    assert found["numbers"].tolist() == [0, 1, 2] and found["one"] == 2


@pytest.mark.parametrize(
    ("hostile", "asked"),
    [
        (lambda flag: Calls(os.system, f"touch {flag}"), "posix.system"),
        (lambda flag: Calls(eval, f"open('{flag}', 'w')"), "eval"),
        (lambda flag: Calls(getattr, HistoryBuffer, "__init__"), "getattr"),
        (lambda flag: Calls(getattr, np.ndarray, "mean"), "getattr"),
        (lambda flag: Calls(getattr, Calls(getattr, HistoryBuffer, "mean"), "__globals__"), "getattr"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path, hostile, asked):
    flag = tmp_path / "it-ran"
    file = saved(tmp_path, state_dict={}, extra=hostile(flag))
    with pytest.raises(DataError, match=rf"checkpoint.pth: refused, .*asks for {asked}"):
        CheckpointLoader.load_checkpoint(file)
    assert not flag.exists()


def test_downloads_are_weights_only_too(monkeypatch):
    """mmengine's `load_url` would read a pickle of anybody's."""
    from mmengine.runner import checkpoint

    asked = {}
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path, *args, **options: asked.update(path=path))
    monkeypatch.setattr("torch.load", lambda *args, **options: asked.update(options) or {"w": torch.ones(1)})
    monkeypatch.setattr("torch.hub._is_legacy_zip_format", lambda path: False)
    checkpoint.load_from_http("https://example.org/weights.pth", map_location="cpu")
    assert asked["weights_only"] is True


def test_safetensors_are_loaded_as_a_state_dict(tmp_path):
    save_file({"weight": torch.full((1, 2), 3.0), "bias": torch.zeros(1)}, tmp_path / "w.safetensors")
    layer = torch.nn.Linear(2, 1)
    load_checkpoint(layer, str(tmp_path / "w.safetensors"), map_location="cpu", logger="silent")
    assert layer.weight.tolist() == [[3, 3]]
