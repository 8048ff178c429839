"""Options that domains declare are flags; `show` prints options; commands of a domain; --version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

import vladapt as package
from vladapt import cli
from vladapt.core.commands import declared
from vladapt.core.commands.options import with_optional_values
from vladapt.core.contracts.options import options_of
from vladapt.core.registry import adapter_class, catalogue, loss_class
from vladapt.core.registry.build import task_class


def test_options_of_a_reader_are_flags_under_the_domains_name(vladapt):
    shown = vladapt("fit", "--help").out
    assert "--window" in shown and "--modality" in shown and "Options of medical" in shown
    assert "--reduce-zero-label" in shown and "Options of open-vocab" in shown


@pytest.mark.parametrize("name", ["medical", "open-vocab", "person", "remote-sensing"])
def test_what_is_declared_is_what_the_reader_takes(name):
    """And what the domain's tasks have as options of their own."""
    found = {each.name: each.help[name] for each in declared.declared_options() if name in each.help}
    domain = package.load_domain(name)
    owners = [domain.reading, *(task_class(task).options for task in domain.task_names)]
    assert found == {each.name: each.help for owner in owners if owner is not None for each in options_of(owner)}


def test_switches_of_domains_may_stand_alone():
    assert {"--cut", "--show-people", "--rerank"} <= declared.declared_switches()
    assert not {"--camera-rule", "--background", "--window-size"} & declared.declared_switches()
    given = ["fit", "--rerank", "--show-people", "--cut", "no", "--window-size", "--quiet"]
    completed = ["fit", "--rerank", "yes", "--show-people", "yes", "--cut", "no", "--window-size", "--quiet"]
    assert with_optional_values(given) == completed
    assert with_optional_values(["fit", "--rerank"]) == ["fit", "--rerank", "yes"]


def test_a_domain_under_construction_takes_no_command_away(tmp_path, monkeypatch):
    domain = '@dataclass\nclass Reading:\n    zoom: int = option(1, "how near")\n\nclass Own:\n    reading = Reading\n'
    for name, text in {"sound": domain, "broken": "class Unfinished(:\n"}.items():
        folder = tmp_path / "domains" / name
        folder.mkdir(parents=True)
        (folder / "domain.py").write_text(text)
    contract = tmp_path.joinpath(*declared.SHARED)
    contract.parent.mkdir(parents=True)
    contract.write_text("")
    monkeypatch.setattr(declared, "PACKAGE_ROOT", tmp_path)
    assert list(declared._read_options()) == [("sound", "reading", "zoom", "how near")]


def test_a_flag_of_a_domain_reaches_its_reader(fit, colours):
    made = fit("--data", colours, "--modality", "histology", "--json").json
    info = json.loads((Path(made["run"]) / "run.json").read_text())
    assert info["recipe"]["data"]["modality"] == "histology" and "data.modality" in info["recipe"]["given"]
    assert any("histology" in template or "histopathology" in template for template in info["templates"])


def test_a_wrong_value_of_a_flag_is_one_line(fit, colours):
    outcome = fit("--data", colours, "--modality", "histologi")
    assert outcome.code == 2 and "did you mean histology?" in outcome.error


def test_show_prints_every_option_with_type_default_and_help(vladapt):
    shown = vladapt("show", "tip-adapter").out
    assert "adapter tip-adapter" in shown and "2207.09519" in shown
    for each in options_of(adapter_class("tip-adapter")):
        assert each.name in shown and each.help in shown and each.accepts in shown
    found = vladapt("show", "loss", "silc", "--json").json
    assert {row["name"]: row["default"] for row in found["options"]} == {
        each.name: each.default_text for each in options_of(loss_class("silc"))
    }


def test_show_knows_each_kind(vladapt):
    assert vladapt("show", "medical").out.startswith("domain medical")
    assert vladapt("show", "detection").out.startswith("task detection")
    assert vladapt("show", "backbone", "embedded").out.startswith("backbone embedded")
    assert "templates" in vladapt("show", "medical/ct-lung").out
    assert "did you mean tip-adapter" in vladapt("show", "tip-adaptr").error
    assert "cannot show a 'thing'" in vladapt("show", "thing", "ape").error


def test_list_marks_what_is_experimental_and_whose_it_is(vladapt):
    listed = vladapt("list", "adapters").out
    assert any(line.startswith("gc-clip") and "(experimental)" in line for line in listed.splitlines())
    assert "of domain open-vocab" in vladapt("list", "tasks").out


def test_version(vladapt):
    outcome = vladapt("--version")
    assert (outcome.code, outcome.out) == (0, f"vladapt {package.__version__}\n")


def test_a_command_of_a_domain_joins_a_group(monkeypatch, tmp_path):
    """Its file is imported when it is called, and read for --help."""
    from typer.testing import CliRunner

    (tmp_path / "sort_out.py").write_text(
        '"""Sort images out."""\n\nGROUP = "curate"\n\n\ndef sort_out(folder: str) -> None:\n'
        '    """Sort a folder out."""\n    print("sorted", folder)\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = catalogue.Entry("sort-out", "command", "domains.toy.commands.sort_out")
    monkeypatch.setattr(catalogue.Entry, "file", property(lambda self: tmp_path / "sort_out.py"))
    monkeypatch.setattr(cli, "commands", lambda: {"sort-out": entry})
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: __import__("sort_out"))

    def run(*arguments):
        app = typer.Typer()
        app.command("fit")(lambda: None)
        cli.add_commands_of_domains(app, arguments)
        return CliRunner().invoke(app, list(arguments)).output

    assert "Sort images out." in run("curate", "--help")
    assert "sorted here" in run("curate", "sort-out", "here")
