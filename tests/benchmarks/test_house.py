"""What has been reached of a lighter house stays reached; `benchmarks/house.py` counts it."""

import ast
import importlib
import os
import subprocess
import sys

import entered_files
import house
import pytest

MOST_ROOMS = 20
MOST_NAMES = 269
MOST_CLASSES = 3
MOST_ENTERED, MOST_ENTERED_AGAIN = 77, 75
"""Files that a fit enters, and one whose features are stored; 75 are wanted."""


@pytest.fixture(scope="module")
def names_of_rooms():
    return list(house.names_of_rooms())


def test_adapters_and_domains_import_from_rooms_and_never_from_a_file_inside_one(names_of_rooms):
    inside = [f"{each.user}: {each.room}" for each in names_of_rooms if "." in each.room]
    assert not inside, f"import from the room, whose __init__ exports what it is to give: {inside}"


def test_they_use_few_rooms_and_no_more_names_than_before(names_of_rooms):
    names = {(each.room, each.name) for each in names_of_rooms}
    assert len({room for room, _ in names}) <= MOST_ROOMS and len(names) <= MOST_NAMES


def test_files_are_entered_where_a_function_runs_and_not_where_they_are_imported():
    files = {file.as_posix() for file in entered_files.entered(("list", "losses"))}
    assert {"cli.py", "core/commands/inspect.py"} <= files and "core/commands/fit.py" not in files
    assert not [file for file in files if file.startswith(".venv")]


@pytest.mark.thorough
def test_a_fit_enters_no_more_files_than_before(tmp_path):
    script = [sys.executable, entered_files.__file__, *house.ENTERED]
    place = {"cwd": tmp_path, "env": {**os.environ, "VLADAPT_CACHE": str(tmp_path / "cache")}}
    for most in (MOST_ENTERED, MOST_ENTERED_AGAIN):
        done = subprocess.run(script, capture_output=True, text=True, check=True, **place)
        files = [line for line in done.stdout.splitlines() if line.endswith(".py") and " " not in line]
        assert {"core/engine/fit.py", "adapters/cache/tip_adapter.py"} <= {*files} and len(files) <= most, files


def test_few_classes_stand_above_a_method():
    """What several methods share is a part that they have."""
    above = house.classes_above_adapters()
    assert {name: count for name, count in above.items() if count > MOST_CLASSES} == {} and len(above) > 70


def test_files_beside_the_folders_count_too(names_of_rooms):
    assert {"adapters.cache", "adapters.published_sets"} <= {each.user for each in names_of_rooms}


@pytest.mark.parametrize("room", house.rooms())
def test_a_room_gives_every_name_that_it_lists_and_no_file_of_it_hides_one(room):
    module = importlib.import_module(f"vladapt.core.{room}")
    listed = dir(module) if "__dir__" in vars(module) else []
    assert [name for name in listed if not hasattr(module, name)] == []
    assert [name for name in listed if (house.ROOT / "core" / room / f"{name}.py").exists()] == []


def test_neither_rooms_nor_files_import_each_other_in_a_circle():
    assert house.circles_of_rooms() == [] and house.circles_of_files() == []


def test_only_tasks_and_what_settles_recipes_take_one():
    assert house.with_recipe() == [], "pass what is needed of it"


def test_what_is_prepared_has_a_type():
    assert house.untyped_prepared() == []


def test_functions_that_take_a_recipe_or_an_untyped_prepared_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "ROOT", tmp_path)
    for file in ("core/runs/a", "core/engine/b", "core/tasks/x/task", "domains/y/tasks/c", "domains/y/d"):
        (source := tmp_path / f"{file}.py").parent.mkdir(parents=True, exist_ok=True)
        source.write_text("def f(prepared: int, *, recipe): ...\nasync def g(prepared, /): ...\n")
    house.sources.cache_clear()
    try:
        assert house.with_recipe() == ["core/runs/a.py:f", "domains/y/d.py:f"]
        assert len(house.untyped_prepared()) == 5 and house.untyped_prepared()[0] == "core/engine/b.py:g"
    finally:
        house.sources.cache_clear()


def test_circles_are_found_and_told_from_ways():
    assert house.circles([("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "d")]) == [["a", "b", "c"]]


def test_lines_of_code_are_those_that_do_something(tmp_path, monkeypatch):
    monkeypatch.setattr(house, "ROOT", tmp_path)
    (file := tmp_path / "a.py").write_text('"""Doc."""\n\nimport os\n\n# why\nx = (\n    1,\n)\n"""Of x."""\n')
    assert house.lines_of_code(file, ast.parse(file.read_text())) == [6, 7, 8]
