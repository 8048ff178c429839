"""Fixtures that all rooms share. Real data is extra: its tests skip where it is absent."""

from __future__ import annotations

import functools
import gc
import itertools
import json
import os
import sys
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of this process and of all that tests start: more would only wait
gc.set_threshold(20_000, 20, 20)  # with 700 objects the collector looks at what the next test still needs

# The same examples in every run: a suite that passes once passes again.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent / "processes"))  # `import forked`, for tests that need other processes

TINY_CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 2},
}


LONGEST = (
    *("test_every_option.py", "test_every_adapter.py", "test_interrupted_and_together.py", "test_unequal_classes.py"),
    *("test_sharding.py", "test_sharded_checkpoints.py", "test_resume.py", "test_every_domain.py", "test_readers.py"),
    *("test_examples.py", "test_packaging.py", "test_fine_tuning.py", "test_compile.py", "test_per_patient.py"),
    *("test_clip_retrieval.py", "test_task_checks.py", "test_fit_towers.py", "test_export.py"),
)
"""Files that take 15 seconds of a processor and more, the longest first."""


COLLECTED = pytest.StashKey[dict[str, bool]]()
SPARING = pytest.StashKey[set[str]]()
"""Tests of which some cases are thorough."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """They come first, so that in the end no worker is left alone with one of them; the others as folders list them."""
    config.stash[SPARING] = set()
    for item in items:
        mark = item.get_closest_marker("thorough")
        if mark and mark.kwargs:
            config.stash[SPARING].add(item.nodeid.partition("[")[0])
            if item.callspec.id.startswith(mark.kwargs["but"]):
                item.own_markers.remove(mark)
    config.stash[COLLECTED] = {item.nodeid: item.get_closest_marker("thorough") is not None for item in items}
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (place.get(item.path.name, len(place)), item.path.parts))


@pytest.fixture(scope="session")
def collected(request) -> dict[str, bool]:
    """All tests that the command line names, and whether they are thorough, which a run may leave out."""
    return request.config.stash[COLLECTED]


@pytest.fixture(scope="session")
def sparing(request) -> set[str]:
    """Tests of which some cases are thorough and others, by the beginnings of their ids, are not."""
    return request.config.stash[SPARING]


class _FromTheEnd(pytest.Dir):
    """A folder whose last file is read first."""

    def collect(self):
        return [*super().collect()][::-1]


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """Every other worker begins at the end: where they meet, each reads the compiled tests that another wrote, whose
    assertions need not be rewritten again."""
    last = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return _FromTheEnd.from_parent(parent, path=path) if int(last) % 2 else None


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Assertions are rewritten in millions of small objects, which the collector of garbage need not look through."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: the collector of garbage need not look through it, not even once."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _settled():
    """Nor through what a file leaves behind (modules, caches, loggers): mmengine collects for each data set it builds,
    which would take most of a second in the end."""
    yield
    gc.collect()
    gc.freeze()


def _data_dir() -> Path:
    return Path(os.environ.get("VLADAPT_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def forked_workers():
    """Checks of `vladapt.testing` that need another process have it forked."""
    from forked import PIPE, start

    from vladapt.core.testing import processes

    processes.start_with(lambda command, env: start(command, env=env, stdin=PIPE))
    yield
    processes._stop()


@pytest.fixture(scope="session")
def s3_address():
    """Of an S3 server in this process."""
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_server(s3_address, monkeypatch):
    """A file system of that server, which the environment names as the one of all."""
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_address,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    yield s3fs.S3FileSystem()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def put_in_place():
    """`put_in_place(stranger, file)`: another file of the same size and time, as `rsync -a` leaves it."""

    def put(stranger: Path, file: Path) -> None:
        status = file.stat()
        os.utime(stranger, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(stranger, file)
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)

    return put


@pytest.fixture(scope="session")
def without_digests():
    """`without_digests(run)`: the folder of a run as older versions wrote it, and whoever likes may change it."""

    def forget(run: Path) -> Path:
        content = json.loads((run / "run.json").read_text(encoding="utf-8"))
        del content["sha256"]
        (run / "run.json").write_text(json.dumps(content), encoding="utf-8")
        return run

    return forget


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of small real data sets ($VLADAPT_DATA)."""
    if not _data_dir().is_dir():
        pytest.skip("no real data sets here; set VLADAPT_DATA to their folder")
    return _data_dir()


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Folder of the public reference code's outputs, beside the real data sets."""
    folder = _data_dir().parent / "parity"
    if not folder.is_dir():
        pytest.skip("no reference outputs here; they lie beside the folder in VLADAPT_DATA")
    return folder


def pytest_sessionfinish() -> None:
    """No process of the suite outlives it."""
    forked = sys.modules.get("forked")
    if forked is not None:
        forked.stop()


@pytest.fixture(scope="session")
def parity(parity_dir):
    """The same, read: `parity.reference(name)` is one fixture, with its settings, tensors and tolerances."""
    from parity_checks.fixtures import Fixtures

    return Fixtures(parity_dir)


@pytest.fixture(scope="session")
def references(request):
    """`references(comparison, folder=None)`: the fixtures that a comparison of benchmarks/parity_checks reads, or the
    one of this name."""

    def read(comparison, folder=None) -> list:
        folder = folder or request.getfixturevalue("parity")
        if isinstance(comparison, str):
            found = [folder.reference(name) for name in folder.names(comparison)]
        else:
            found = list(comparison.references(folder))
        return found or pytest.skip(f"not among the reference outputs: {comparison}")

    return read


@pytest.fixture(scope="session")
def agrees(request, references):
    """`agrees(comparison, folder=None)`: all its numbers are within the tolerances that its fixtures give."""

    def hold(comparison, folder=None) -> None:
        for reference in references(comparison, folder):
            checks = list(comparison.run(reference, folder or request.getfixturevalue("parity")))
            assert checks and not [check for check in checks if not check.share <= 1]

    return hold


@pytest.fixture(scope="session")
def _caches(tmp_path_factory):
    """Names of folders that are not there yet."""
    place = tmp_path_factory.mktemp("caches")
    return (place / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(request, monkeypatch, _caches):
    """No test reads or writes the user's feature store. Of a test that asks for no `tmp_path` none is made: it costs
    more than most of them."""
    asked = "tmp_path" in request.fixturenames
    folder = request.getfixturevalue("tmp_path") / "vladapt-cache" if asked else next(_caches)
    monkeypatch.setenv("VLADAPT_CACHE", str(folder))


@pytest.fixture(scope="module")
def _cache_of_the_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def one_cache(_own_cache, _cache_of_the_file, monkeypatch):
    """For tests of a file that look at the same images with the same backbone: each is encoded once for all of them."""
    monkeypatch.setenv("VLADAPT_CACHE", str(_cache_of_the_file))


@pytest.fixture(scope="module")
def few_drawings(request):
    """A training of towers names 30 generic drawings before and after, not 150. Rooms that train by commands ask
    for it, and a file that counts them has ALL_DRAWINGS."""
    from vladapt.core.forgetting.probe import GenericProbe

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "ALL_DRAWINGS", False):
            patch.setattr(GenericProbe.drawn.__func__, "__defaults__", (1,))
        yield


@pytest.fixture(scope="session")
def write_clip(tmp_path_factory):
    """`write_clip(width=8)` -> `open_clip:<json>@<safetensors>`, with such a text tower. Embeddings are scaled up so
    that words matter to a random tower."""
    import torch

    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    from safetensors.torch import save_file

    from vladapt.core.testing.towers import drawn_clip

    def write(**text) -> str:
        folder = tmp_path_factory.mktemp("small-clip")
        config = {**TINY_CLIP, "text_cfg": {**TINY_CLIP["text_cfg"], **text}}
        (folder / "small.json").write_text(json.dumps(config))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = drawn_clip(config)
            model.token_embedding.weight.data.mul_(10)
        tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
        save_file(tensors, folder / "small.safetensors")
        return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"

    return write


@pytest.fixture(scope="session")
def small_clip_spec(write_clip) -> str:
    """Of a small CLIP."""
    return write_clip()


@pytest.fixture(scope="session")
def small_clip(small_clip_spec):
    """The backbone, D = 24."""
    from vladapt.core.backbones.load import load_backbone

    return load_backbone(small_clip_spec, device="cpu")


@pytest.fixture
def fresh_clip(small_clip_spec):
    """A small CLIP of one's own, to train."""
    from vladapt.core.backbones.load import load_backbone

    return load_backbone(small_clip_spec, device="cpu")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Of mmengine, which is one for all of a process: no test names modules in the default scope that another left
    behind, and the versions of compilers, which a shell tells for each Runner, are asked for once. Of torch's exporter,
    that its table of operators is made once. Of matplotlib, that figures which no test looks at are not laid out."""
    layouts = sys.modules.get("matplotlib.layout_engine")
    if layouts is not None:
        own = _layout_of(layouts.ConstrainedLayoutEngine)
        layouts.ConstrainedLayoutEngine.execute = own if "runs" in item.path.parts else _no_layout
    graph = sys.modules.get("vladapt.core.export.graph")
    if graph is not None:
        from shared_operators import share_operators

        share_operators(graph)
    registry, runner = sys.modules.get("mmengine.registry"), sys.modules.get("mmengine.runner.runner")
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()
    if runner is not None and not hasattr(runner.collect_env, "cache_info"):
        runner.collect_env = functools.cache(runner.collect_env)


@functools.cache
def _layout_of(engine: type):
    """Matplotlib's own, asked for before it is replaced."""
    return engine.execute


def _no_layout(engine, figure) -> None:
    pass


@pytest.fixture(scope="session", autouse=True)
def _types_of_options_made_once():
    """Typer has pydantic make the types of all options, some 130, anew for each command, and reads its signature
    twice."""
    import typer.main

    typer.main.get_params_from_function = functools.lru_cache(maxsize=4)(typer.main.get_params_from_function)
    try:
        from typer import _adapters as adapters
    except ImportError:
        return
    build, built = adapters.build_leaf_adapter, {}

    def once(annotation, parameter_info):
        limits = parameter_info.parser, parameter_info.min, parameter_info.max
        if annotation not in (str, int, float, bool) or limits != (None, None, None):
            return build(annotation, parameter_info)
        if annotation not in built:
            built[annotation] = build(annotation, parameter_info)
        return built[annotation]

    adapters.build_leaf_adapter = once


@pytest.fixture(scope="session")
def _plots(tmp_path_factory) -> Path:
    """Where those of all processes are, beside their one server."""
    import forked

    own = tmp_path_factory.getbasetemp()
    forked.SHARED = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "processes"
    forked.PLOTS = forked.SHARED / "plots"
    forked.PLOTS.mkdir(parents=True, exist_ok=True)
    return forked.PLOTS


@pytest.fixture(autouse=True)
def _plots_of_a_kind_drawn_once(_plots):
    from shared_plots import share_comparisons, share_plots

    reports, comparisons = map(sys.modules.get, ("vladapt.core.runs.run_sections", "vladapt.core.engine.compare"))
    if reports is not None:
        share_plots(reports, _plots)
    if comparisons is not None:
        share_comparisons(comparisons, _plots)


@pytest.fixture(scope="session")
def drawn_lands():
    """Factory: a folder with ten classes of drawn images, what the published set eurosat is recognised by if it has its
    name."""
    import numpy as np
    from PIL import Image

    def draw(folder: Path, images: int) -> Path:
        drawn = np.random.default_rng(0)
        for label in range(10):
            (folder / f"land {label}").mkdir(parents=True)
            for number in range(images):
                pixels = (25 * label + drawn.integers(0, 120, (16, 16, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"land {label}" / f"{number}.png")
        return folder

    return draw
