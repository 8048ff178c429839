"""The packaged recipes: what they say, and what RS-M-CLIP's does in several languages."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import vladapt
from vladapt.cli import app
from vladapt.core.errors import ConfigError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.training.objective import build_objective, parse_losses
from vladapt.domains.remote_sensing import RemoteSensing

WORDS = {"red": "vermelho", "green": "verde", "blue": "azul", "white": "branco"}
RETRIEVAL = {"georsclip": "lora", "rs-m-clip": "full", "remoteclip": "full"}
CLASSIFICATION = ("default", "few-shot-scenes", "several-labels", "mapping")


@pytest.mark.parametrize("name", [*RETRIEVAL, *CLASSIFICATION])
def test_each_is_listed_and_shown(name):
    shown = CliRunner().invoke(app, ["show", f"remote-sensing/{name}"])
    assert shown.exit_code == 0 and "domain = 'remote-sensing'" in shown.stdout
    assert f"remote-sensing/{name}" in CliRunner().invoke(app, ["list", "recipes"]).stdout


@pytest.mark.parametrize(("name", "adapter"), RETRIEVAL.items())
def test_those_of_captions_learn_pairs(name, adapter):
    recipe = resolve(recipe=f"remote-sensing/{name}")
    options = {key: value for key, value in recipe.adapter.items() if key != "name"}
    built = vladapt.build_adapter(adapter, **options)
    assert recipe.task == "retrieval" and recipe.adapter_name == adapter and "pairs" in built.can
    assert "clip" in parse_losses(built.loss.split(","))


def test_one_step_of_rs_m_clip_is_clip_and_self_distillation_written_out():
    torch.manual_seed(0)
    options = resolve(recipe="remote-sensing/rs-m-clip").adapter
    small = {"out_dim": 12, "hidden_dim": 10, "bottleneck_dim": 6}
    of_silc = {**options["loss_options"]["silc"], **small}
    dims = {"image_width": 8, "embed_dim": 5}
    objective = build_objective(parse_losses(options["loss"].split(",")), dims, {"silc": of_silc})
    unit = [F.normalize(torch.randn(4, 5), dim=-1).requires_grad_() for _ in range(2)]
    scale, local, whole = torch.tensor(7.0), torch.randn(4, 3, 8, requires_grad=True), torch.randn(4, 8)
    out = {"image_features": unit[0], "text_features": unit[1], "logit_scale": scale}
    total = objective({**out, "hidden_local": local, "teacher.image_hidden": whole}, 0.0)["loss"]

    logits, own = 7.0 * unit[0] @ unit[1].T, torch.arange(4)
    clip = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    silc = objective.losses["silc"]
    targets = ((silc.teacher_head(whole) - silc.centre) / silc.teacher_temperature).softmax(dim=-1).detach()
    student = (silc.head(local) / silc.student_temperature).log_softmax(dim=-1)
    distilled = -(targets[:, None] * student).sum(dim=-1).mean()
    torch.testing.assert_close(total, clip + distilled)
    trained = [*unit, local, *silc.head.parameters()]
    for one, other in zip(torch.autograd.grad(total, trained), torch.autograd.grad(clip + distilled, trained)):
        torch.testing.assert_close(one, other)


# several languages ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory):
    """24 fields of a colour, each with a caption in English and one in Portuguese, in one table."""
    folder, rows = tmp_path_factory.mktemp("languages"), []
    (folder / "images").mkdir()
    for i in range(24):
        colour, split = list(WORDS)[i % 4], "test" if i >= 16 else "train"
        Image.new("RGB", (16 + i, 16), colour).save(folder / "images" / f"{i}.png")
        rows.append([f"{i}.png", f"a {colour} field number {i}", "en", split])
        rows.append([f"{i}.png", f"um campo {WORDS[colour]} de tamanho {i}", "pt", split])
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["filename", "title", "language", "split"], *rows])
    return folder / "captions.csv"


def test_captions_of_one_language_or_of_all(two_languages):
    def read(**options):
        return RemoteSensing().read(two_languages, "retrieval", **options)

    assert {len(item.captions()) for item in read().items} == {2}
    assert read(language="PT").items[0].captions() == ("um campo vermelho de tamanho 0",)
    assert read(language="en").items[1].captions() == ("a green field number 1",)
    with pytest.raises(ConfigError, match=r"--language fr: .* has no such captions; it has: en, pt"):
        read(language="fr")


def test_a_language_without_a_column_or_a_table_is_one_line(tmp_path):
    table, other = tmp_path / "a.csv", tmp_path / "b.json"
    table.write_text("filename,title\na.png,one\n")
    other.write_text(json.dumps({"images": []}))
    with pytest.raises(ConfigError, match="has no column language; omit it"):
        RemoteSensing().read(table, "retrieval", language="en")
    with pytest.raises(ConfigError, match=r"b\.json is not a table with a column language"):
        RemoteSensing().read(other, "retrieval", language="en")


def test_a_run_on_two_languages_is_scored_for_each(two_languages, small_clip_spec, tmp_path):
    small = {"contrastive": 0.0, "out_dim": 16, "hidden_dim": 16, "bottleneck_dim": 8}
    adapter = {"name": "full", "loss": "clip=1,silc=1", "loss_options": {"silc": small}, "epochs": 1, "batch_size": 8}
    how = {"backbone": small_clip_spec, "device": "cpu", "workers": 1, "out": str(tmp_path / "run")}
    data = {"path": str(two_languages)}
    done = vladapt.fit(domain="remote-sensing", task="retrieval", data=data, adapter=adapter, **how)
    each = {of: vladapt.evaluate(done.run, reading={"language": of}) for of in ("en", "pt")}
    assert done.metrics["test_texts"] == 16 and all(of["test_texts"] == 8 for of in each.values())
    of_all = done.metrics["adapted"]
    assert all(of["adapted"] != of_all for of in each.values()) and each["en"]["adapted"] != each["pt"]["adapted"]
