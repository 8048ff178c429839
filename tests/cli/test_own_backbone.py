"""`--backbone FILE.py:NAME`: the user's own code runs where the command line names it, and nowhere else."""

import json

import pytest

from vladapt.core.backbones.specs import with_own_teachers
from vladapt.core.commands.options import OWN_CODE
from vladapt.core.contracts.families import OFFERED
from vladapt.core.contracts.serving import Serving
from vladapt.core.engine.serve import load_served
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
        load_served(tmp_path / run, Serving(device="cpu"))
    assert load_served(tmp_path / run, Serving(device="cpu"), f"{code}:make").name
    changed = vladapt("predict", run, image, "--backbone", f"{encoder(gain=2.0)}:make")
    assert changed.code == 1 and "was fitted on backbone" in changed.error


def test_every_command_that_takes_a_backbone_takes_code_and_an_index_no_other(vladapt, colours, encoder, tmp_path):
    first, second = (f"{encoder(gain, name)}:make" for gain, name in ((1.0, "encoder.py"), (2.0, "second.py")))
    quick = ("--adapters", "nearest-mean", "--shots", 2, "--seeds", 1, "--splits", 1, "--workers", 0, "--json")
    compared = vladapt("compare", "--domain", "natural", "--data", colours, "--backbones", f"{first}, {second}", *quick)
    assert {row["backbone"] for row in compared.json["rows"]} == {"encoder.py:make", "second.py:make"}, compared.err
    on = ("--backbone", first, "--workers", 0)
    assert vladapt("embed", colours, "--out", "e.npz", *on, "--json").json["dim"] == 12
    pool = ("--data", colours / "red", "--classes", "cat, dog", "--method", "coreset", "--budget", 1)
    assert vladapt("select", *pool, "--out", "todo.csv", *on).code == 0
    assert vladapt("index", colours, "--out", "i", *on).code == 0
    OFFERED.clear()  # another process
    image = ("--image", colours / "red" / "00.png")
    refused = vladapt("search", "i", *image)
    assert refused.code == 1 and "give --backbone FILE.py:NAME" in refused.error
    assert vladapt("search", "i", *image, "--backbone", first).code == 0
    other = vladapt("search", "i", *image, "--backbone", second)
    assert other.code == 1 and "made with backbone" in other.error


def test_code_gives_the_keys_of_a_cache(vladapt, colours, encoder, tmp_path):
    first, keys = f"{encoder()}:make", ("--resource", f"keys={encoder(2.0, 'second.py')}:make")
    how = ("--adapter", "tip-adapter", "--shots", 2, "--workers", 0, "--domain", "natural", "--json")
    run = vladapt("fit", "--data", colours, "--backbone", first, *keys, *how).json["run"]
    OFFERED.clear()  # another process
    image = colours / "red" / "00.png"
    assert "second.py:make" in vladapt("predict", run, image, "--backbone", first).error
    assert vladapt("predict", run, image, "--backbone", first, *keys).code == 0
    use = Serving(device="cpu", resources={"keys": keys[1].removeprefix("keys=")})
    OFFERED.clear()
    assert load_served(tmp_path / run, use, first).name


def test_code_gives_teachers(encoder):
    code = encoder()
    assert with_own_teachers([f"{code}:make", "embedded"]) == ["encoder.py:make", "embedded"]
    assert OWN_CODE["teacher"] is with_own_teachers and "encoder.py:make" in OFFERED


def test_two_files_of_one_name_are_told_apart(vladapt, colours, encoder, tmp_path):
    (tmp_path / "other").mkdir()
    files = [encoder(), encoder(2.0, "other/encoder.py")]
    refused = vladapt("compare", "--data", colours, "--backbones", ",".join(f"{file}:make" for file in files))
    assert refused.code != 0 and f"{files[0]} has the same name; rename one" in refused.error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("encoder.py:module", "returns a Encoder; return vladapt.Backbone.from_module("),
        ("encoder.py:broken", "ValueError: no weights here"),
        ("encoder.py:nothing", "encoder.py has no function nothing; give one that it has"),
        ("encoder.py", "code of yours needs its function, too; give --backbone FILE.py:NAME"),
        ("encoder.py:", "code of yours needs its function, too; give --backbone FILE.py:NAME"),
        ("elsewhere.py:make", "no such file elsewhere.py"),
    ],
)
def test_code_that_makes_no_backbone_is_said_in_one_line(vladapt, colours, encoder, name, says):
    encoder()
    refused = vladapt("fit", "--data", colours, "--backbone", name)
    assert refused.code != 0 and says in refused.error
