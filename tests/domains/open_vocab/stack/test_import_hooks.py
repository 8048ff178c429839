"""Work on another package's module is done when it is imported, once, and leaves no trace in the import system."""

import importlib
import sys

import pytest

from vladapt.domains.open_vocab.stack.import_hooks import after_import, before_import


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Name of a module that says `ready` where `sys.ready` is set before it runs."""
    name = f"hooked_{request.node.name}"
    (tmp_path / f"{name}.py").write_text("import sys\nready = getattr(sys, 'ready', False)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "ready", False, raising=False)
    yield name
    sys.modules.pop(name, None)


def test_before_and_after(module):
    seen = []

    def make_ready():
        sys.ready = True

    before_import(module, make_ready)
    after_import(module, lambda found: seen.append(found.ready))
    assert seen == []
    assert importlib.import_module(module).ready and seen == [True]


def test_an_imported_module_is_worked_on_at_once_and_once(module):
    importlib.import_module(module)
    seen = []
    for _ in range(2):
        after_import(module, seen.append)
    assert len(seen) == 1


def test_asked_twice_it_is_done_once(module):
    seen = []
    for _ in range(2):
        after_import(module, seen.append)
    importlib.import_module(module)
    assert len(seen) == 1


def test_the_module_shows_its_own_loader(module):
    after_import(module, lambda found: None)
    found = importlib.import_module(module)
    assert type(found.__loader__).__name__ == "SourceFileLoader" and found.__spec__.loader is found.__loader__
    assert "ready" in importlib.util.find_spec(module).loader.get_source(module)
