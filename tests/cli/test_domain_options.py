"""Options that domains declare are flags; `show` prints options; commands of a domain; --version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import Mock

import pytest
import typer

import vladapt as package
from vladapt import cli
from vladapt.core.commands import declared
from vladapt.core.commands.options import FromEncoding, with_flags, with_optional_values
from vladapt.core.contracts.options import options_of
from vladapt.core.errors import DataError
from vladapt.core.registry import adapter_class, catalogue, loss_class
from vladapt.core.registry.build import task_class
from vladapt.core.runtime import files


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A package folder in which nothing lies yet; `add(name, text)` puts a domain there."""
    monkeypatch.setattr(declared, "PACKAGE_ROOT", tmp_path)

    def add(name: str, text: str) -> Path:
        folder = tmp_path / "domains" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        return folder

    return add


@pytest.fixture
def imports(monkeypatch):
    """Names of the domains that are imported to make an index, which has one option each time: `zoom1`, `zoom2`, ..."""
    imported = []

    def read(folder: Path):
        if "Unfinished" in (folder / "__init__.py").read_text():
            raise SyntaxError(folder.name)
        imported.append(folder.name)
        zoom = declared.Declared("reading", folder.name, f"zoom{len(imported)}", "int", False, "how near")
        return declared.Index((zoom,), ("classification",)), [type("Own", (), {"__module__": "own"})]

    monkeypatch.setattr(declared, "_imported", read)
    monkeypatch.setattr(declared, "_source", lambda cls: "domains/sound/__init__.py")
    return imported


def test_help_shows_the_options_of_the_domain_that_is_named_and_of_no_other(vladapt):
    plain, medical = vladapt("fit", "--help").out, vladapt("fit", "--domain", "medical", "--help").out
    assert "--window" not in plain and "vladapt fit --domain NAME --help" in plain
    assert "--window" in medical and "Options of medical" in medical and "--modality" in medical
    assert "--reduce-zero-label" not in medical and "--data" in medical
    assert "--reduce-zero-label" in vladapt("fit", "--domain=open-vocab", "--help").out


def test_help_has_at_most_32_options_without_a_domain(vladapt):
    shown = re.findall(r"^│ +(--[a-z-]+)", vladapt("fit", "--help").out, re.MULTILINE)
    assert "--shots" in shown and len(shown) <= 32


@pytest.mark.parametrize("command", ["fit", "compare", "predict", "eval"])
def test_help_is_in_groups(vladapt, command):
    shown = vladapt(command, "--help").out
    places = [shown.index(f"─ {panel} ─") for panel in ("Data", "Method", "Judging", "Output")]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["fit", "compare", "embed", "index", "select"])
def test_every_command_that_reads_data_takes_the_options_of_domains(vladapt, command):
    assert "Options of medical" in vladapt(command, "--domain", "medical", "--help").out


def test_options_of_judgements_are_flags_of_eval(vladapt):
    assert "--vocabulary-steps" in vladapt("eval", "--help").out
    assert "--vocabulary-steps" not in vladapt("predict", "--help").out


def test_help_shows_the_options_of_the_task_that_is_named_and_of_no_other(vladapt):
    every = vladapt("fit", "--domain", "video", "--help").out
    assert "Options of task moments" in every and "Options of task retrieval" in every
    one = vladapt("fit", "--domain", "video", "--task", "moments", "--help").out
    assert "Options of task moments" in one and "Options of task retrieval" not in one


def test_help_on_a_run_shows_the_options_of_its_domain(vladapt, tmp_path):
    (tmp_path / "run.json").write_text('{"domain": "medical", "task": "classification"}')
    for command in ("predict", "eval", "export"):
        assert "Options of medical" in vladapt(command, tmp_path, "--help").out
        assert "Options of medical" not in vladapt(command, "--help").out
    (tmp_path / "run.json").unlink()
    (tmp_path / "index.json").write_text('{"reading": {"domain": "video"}}')
    assert "Options of video" in vladapt("search", tmp_path, "--help").out


@pytest.mark.parametrize("name", ["medical", "open-vocab", "person", "remote-sensing", "video", "natural"])
def test_what_is_declared_is_what_the_domain_takes(name):
    """Its reader, and its tasks, wherever they lie."""

    def own(help):
        return re.split("; one of |; by default ", help)[0]

    found = {(each.key, own(each.help)) for each in declared.options_of_domain(name)}
    domain = package.load_domain(name)
    tasks = [options for task in domain.task_names if (options := task_class(task).options) is not None]
    taken = {(f"data.{each.name}", own(each.help)) for each in options_of(domain.reading)}
    assert found == taken | {(each.name, own(each.help)) for options in tasks for each in options_of(options)}


@pytest.mark.parametrize("folder", declared.option_folders(), ids=lambda folder: folder.name)
def test_the_index_of_a_folder_is_up_to_date(folder):
    """`make index` makes it again."""
    assert (folder / declared.FILE).read_text(encoding="utf-8") == declared.index_text(folder)


def test_one_name_has_one_type_in_all_domains():
    types = {}
    for name in catalogue.domains():
        for each in declared.options_of_domain(name):
            types.setdefault(each.key, set()).add((each.type, each.switch))
    assert not {key: found for key, found in types.items() if len(found) > 1}


def test_an_index_that_is_missing_stale_or_damaged_is_made_again_and_kept(room, imports):
    folder = room("sound", "class Own:\n    zoom = option(1)\n    near = 2\n\n    def read(self):\n        return 1\n")
    source, file = folder / "__init__.py", folder / declared.FILE
    changes = (
        lambda: None,
        lambda: source.write_text(source.read_text().replace("option(1)", "option(\n        2\n    )")),
        lambda: file.write_text("{"),
        lambda: file.write_text(file.read_text().replace('"format": 1', '"format": 0')),
    )
    for times, change in enumerate(changes, 1):
        change()
        assert [each.name for each in declared._read(folder).options] == [f"zoom{times}"]
        source.write_text(source.read_text().replace("        return 1", "        return 2"))  # declares nothing
        assert declared._read(folder).options[0].name == f"zoom{times}" and len(imports) == times


def test_an_index_in_a_folder_that_cannot_be_written_is_made_in_memory(room, imports, monkeypatch):
    folder = room("sound", "")
    monkeypatch.setattr(files, "write_whole", Mock(side_effect=DataError("read-only")))
    assert [each.name for each in declared._read(folder).options] == ["zoom1"]
    assert not (folder / declared.FILE).exists()


def test_a_domain_under_construction_takes_no_command_away(room, imports):
    room("sound", "")
    room("broken", "class Unfinished(:\n")
    declared._here.cache_clear()
    try:
        assert list(declared._here()) == ["sound"]
    finally:
        declared._here.cache_clear()


def test_switches_of_domains_may_stand_alone():
    given = ["fit", "--rerank", "--show-people", "--cut", "no", "--window-size", "--quiet"]
    completed = ["fit", "--rerank", "yes", "--show-people", "yes", "--cut", "no", "--window-size", "--quiet"]
    assert with_optional_values(given) == completed
    assert with_optional_values(["fit", "--rerank"]) == ["fit", "--rerank", "yes"]
    for flag in ("--camera-rule", "--background", "--window-size"):
        assert with_optional_values(["fit", flag]) == ["fit", flag]


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
    entry = catalogue.NameOrigin("sort-out", "command", "domains.toy.commands.sort_out")
    monkeypatch.setattr(catalogue.NameOrigin, "file", property(lambda self: tmp_path / "sort_out.py"))
    monkeypatch.setattr(cli, "commands", lambda: {"sort-out": entry})
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: __import__("sort_out"))

    def run(*arguments):
        app = typer.Typer()
        app.command("fit")(lambda: None)
        cli.add_groups_and_commands_of_domains(app, arguments)
        return CliRunner().invoke(app, list(arguments)).output

    assert "Sort images out." in run("curate", "--help")
    assert "sorted here" in run("curate", "sort-out", "here")


def test_a_domains_command_gets_what_is_given_of_the_encoding():
    got = {}

    def look(place: str, how: Annotated[dict[str, Any], FromEncoding()]) -> None:
        got.update(how, place=place)

    app = typer.Typer()
    app.command()(with_flags(look, []))
    typer.main.get_command(app)(["here", "--batch-size", "4", "--debug"], standalone_mode=False)
    assert got == {"place": "here", "batch_size": 4}


def test_a_command_of_another_package_keeps_a_debug_of_its_own():
    def look(place: str, debug: bool = False) -> None: ...

    assert with_flags(look, []) is look


def test_options_of_judgements_are_flags_of_a_fit_shown_where_its_domain_is_named(vladapt):
    plain, medical = vladapt("fit", "--help").out, vladapt("fit", "--domain", "medical", "--help").out
    assert "--operating-point" not in plain and "--operating-point" in medical and "--vocabulary-steps" not in medical
    assert "--operating-point" not in vladapt("fit", "--domain", "video", "--task", "moments", "--help").out
    assert "--operating-point" not in vladapt("embed", "--domain", "medical", "--help").out
    assert with_optional_values(["--assured", "--shots", "4"]) == ["--assured", "yes", "--shots", "4"]
