"""`--backbone FILE.py:NAME`: the user's own code runs where the command line names it, and nowhere else."""

import json

import pytest

from vladapt.core.contracts.families import OFFERED
from vladapt.core.contracts.serving import Serving
from vladapt.core.engine.serve import load_run
from vladapt.core.errors import CapabilityError

ENCODER = """
import torch, vladapt
open({mark!r}, "a").write("run\\n")
class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 12, 4, 4)
    def forward(self, pixels):
        return {gain} * self.conv(pixels).relu().mean(dim=(2, 3))
def make():
    return vladapt.Backbone.from_module(Encoder(), image_size=24, embed_dim=12)
def module():
    return Encoder()
def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture
def encoder(tmp_path):
    """gain -> the path of code that makes a backbone, and notes in `ran` that it ran."""

    def write(gain=1.0, name="encoder.py"):
        (tmp_path / name).write_text(ENCODER.format(mark=str(tmp_path / "ran"), gain=gain))
        return tmp_path / name

    yield write
    OFFERED.clear()


def test_a_run_asks_for_the_code_again_and_takes_no_other(vladapt, colours, encoder, tmp_path):
    code = encoder()
    fitted = vladapt(
        *("fit", "--domain", "natural", "--data", colours, "--backbone", f"{code}:make"),
        *("--adapter", "nearest-mean", "--shots", 4, "--workers", 0, "--json"),
    )
    assert fitted.code == 0, fitted.err
    run = fitted.json["run"]
    assert json.loads((tmp_path / run / "run.json").read_text())["backbone"]["spec"] == "encoder.py:make"
    OFFERED.clear()  # another process
    (tmp_path / "ran").unlink()
    image = colours / "red" / "00.png"
    for command in (("predict", run, image), ("eval", run)):
        refused = vladapt(*command)
        assert refused.code == 1 and "give --backbone FILE.py:NAME" in refused.error
    assert not (tmp_path / "ran").exists()
    predicted = vladapt("predict", run, image, "--backbone", f"{code}:make", "--json")
    assert predicted.code == 0 and predicted.json["predictions"][0]["label"] == "red", predicted.out
    assert vladapt("eval", run, "--backbone", f"{code}:make").code == 0
    OFFERED.clear()
    with pytest.raises(CapabilityError, match="give --backbone"):
        load_run(tmp_path / run, Serving(device="cpu"))
    assert load_run(tmp_path / run, Serving(device="cpu"), f"{code}:make").name
    changed = vladapt("predict", run, image, "--backbone", f"{encoder(gain=2.0)}:make")
    assert changed.code == 1 and "was fitted on backbone" in changed.error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("encoder.py:module", "returns a Encoder; return vladapt.Backbone.from_module("),
        ("encoder.py:broken", "ValueError: no weights here"),
        ("encoder.py:nothing", "AttributeError"),
        ("elsewhere.py:make", "no such file elsewhere.py"),
    ],
)
def test_code_that_makes_no_backbone_is_said_in_one_line(vladapt, colours, encoder, name, says):
    encoder()
    refused = vladapt("fit", "--data", colours, "--backbone", name)
    assert refused.code != 0 and says in refused.error
