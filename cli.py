"""The command line: parses, calls the engine, prints. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from .core.contracts.errors import ConfigError, VladaptError
from .core.engine.exits import INTERRUPTED, fail, interrupted, is_main_rank, usage

app = typer.Typer(
    name="vladapt",
    help="Adapt a pretrained vision-language model to your images, from a handful of labels or none.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Domain = Annotated[str | None, typer.Option(help="Domain plug-in (`vladapt list domains`).")]
Task = Annotated[str | None, typer.Option(help="Task of the domain; its first one by default.")]
Data = Annotated[str | None, typer.Option(help="Data set: a folder or file, or `sample`.")]
Features = Annotated[str | None, typer.Option(help="Features file (.safetensors, .npz) instead of images.")]
AdapterName = Annotated[str | None, typer.Option(help="Method (`vladapt list adapters`).")]
Backbone = Annotated[
    str | None, typer.Option(help="embedded, open_clip:<arch>/<tag>, open_clip:<arch>@<file>, hf:<id>")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Amp = Annotated[str | None, typer.Option(help="Mixed precision of the backbone: bf16 or fp16.")]
Workers = Annotated[int | None, typer.Option(help="Threads that decode images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images at once through the backbone; measured by default.")]
RecipeName = Annotated[str | None, typer.Option(help="Packaged recipe (`vladapt list recipes`).")]
ConfigFile = Annotated[str | None, typer.Option(help="A recipe file of your own (.py, .json, .yaml).")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, for instance adapter.alpha=2. Repeatable.")]
Classes = Annotated[str | None, typer.Option(help="base, new, a,b,c or a text file with one class a line.")]
Out = Annotated[str | None, typer.Option(help="Where to write.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


@app.command()
def fit(
    domain: Domain = None,
    task: Task = None,
    data: Data = None,
    features: Features = None,
    adapter: AdapterName = None,
    loss: Annotated[str | None, typer.Option(help="Loss, for adapters that let it be chosen.")] = None,
    shots: Annotated[int | None, typer.Option(help="Labelled images a class.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes the draw of the shots and all else that is random.")] = None,
    backbone: Backbone = None,
    device: Device = None,
    amp: Amp = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, for adapters that train.")] = None,
    batch_size: BatchSize = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, for adapters that train.")] = None,
    workers: Workers = None,
    recipe: RecipeName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    classes: Classes = None,
    novel: Annotated[
        bool | None, typer.Option("--novel", help="Also test on the classes that --classes leaves out.")
    ] = None,
    out: Out = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Adapt a model to a data set and write a run with a report.

    Example: vladapt fit --domain medical --data ./xrays --adapter tip-adapter --shots 16
    """
    from .core.engine.fit import fit as engine_fit
    from .core.engine.tables import choice, metrics_table, verdict

    flags = {
        **_data_flags(domain, task, data, features, backbone, device, amp, batch_size, workers, classes),
        "adapter.name": adapter,
        "adapter.loss": loss,
        "adapter.epochs": epochs,
        "adapter.lr": lr,
        "shots": shots,
        "seed": seed,
        "novel": novel,
        "out": out,
    }
    result = engine_fit(_recipe(recipe, config, sets, flags), reporter=_reporter())
    if result is None:
        return
    if as_json:
        _print_json(result.summary)
        return
    _show(metrics_table(result.metrics))
    _say(verdict(result.metrics))
    _say(choice(result.report))
    for note in result.notes:
        _say(f"Note: {note}")
    for name, reason in result.skipped:
        _say(f"Skipped: {name}: {reason}")
    if result.encoded or result.from_store:
        _say(f"Features: {result.encoded} images encoded, {result.from_store} from the store.")
    _say(f"Run:    {result.run}")
    if (report := result.run / "report.html").is_file():  # a task that its domain owns may have none
        _say(f"Report: {report}")


@app.command("eval")
def evaluate(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    data: Data = None,
    features: Features = None,
    split: Annotated[str, typer.Option(help="test, val, train or all.")] = "test",
    device: Device = None,
    workers: Workers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate a run again, on its own test images or on other data of the same classes.

    Example: vladapt eval runs/20260101-120000-medical-ape-1a2b --data ./other_hospital
    """
    from .core.engine.evaluate import evaluate as engine_evaluate
    from .core.engine.tables import metrics_table, verdict

    result = engine_evaluate(
        run, data=data, features=features, split=split, device=device or "auto", workers=workers, reporter=_reporter()
    )
    if as_json:
        _print_json(result)
        return
    _show(metrics_table(result))
    _say(verdict(result))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A run folder.")],
    images: Annotated[list[str], typer.Argument(help="Image files or folders.")],
    device: Device = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify new images with a run.

    Example: vladapt predict runs/20260101-120000-medical-ape-1a2b new_scans/
    """
    from .core.engine.predict import predict as engine_predict
    from .core.engine.tables import predictions_table

    found = engine_predict(
        run, images, device=device or "auto", batch_size=batch_size, workers=workers, reporter=_reporter()
    )
    if as_json:
        _print_json({"run": run, "predictions": found.rows(), "skipped": [list(pair) for pair in found.skipped]})
        return
    _show(predictions_table(found.rows()))
    for name, reason in found.skipped:
        _say(f"Skipped: {name}: {reason}")


@app.command()
def compare(
    adapters: Annotated[str, typer.Option(help="Methods, comma-separated; zero-shot is always added.")],
    domain: Domain = None,
    task: Task = None,
    data: Annotated[list[str] | None, typer.Option(help="Data set, or `sample`. Repeatable.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="Features file instead of images. Repeatable.")] = None,
    shots: Annotated[str, typer.Option(help="Labelled images a class, comma-separated.")] = "1,2,4,8,16",
    seeds: Annotated[str, typer.Option(help="Seeds, comma-separated.")] = "1,2,3",
    backbone: Backbone = None,
    device: Device = None,
    amp: Amp = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    recipe: RecipeName = None,
    config: ConfigFile = None,
    sets: Sets = None,
    classes: Classes = None,
    out: Out = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare methods over shots and seeds on the same features: a table, a CSV and a plot.

    Example: vladapt compare --domain medical --adapters tip-adapter,ape --shots 1,4,16 --seeds 1,2,3
    """
    from .core.engine.compare import compare as engine_compare
    from .core.engine.tables import comparison_markdown, comparison_table

    flags = _data_flags(domain, task, None, None, backbone, device, amp, batch_size, workers, classes)
    sources = [{"data": path} for path in data or ()] + [{"features": file} for file in features or ()]
    result = engine_compare(
        _recipe(recipe, config, sets, flags),
        _names(adapters),
        _numbers("--shots", shots),
        _numbers("--seeds", seeds),
        sources=sources,
        out=out,
        reporter=_reporter(),
    )
    if as_json:
        _print_json({"rows": result.rows, "csv": str(result.csv), "plot": str(result.plot), "refused": result.refused})
        return
    if markdown:
        _say(comparison_markdown(result.summary()))
    else:
        _show(comparison_table(result.summary()))
    for name, reason in result.refused.items():
        _say(f"Refused: {name}: {reason}")
    for note in result.notes:
        _say(f"Note: {note}")
    _say(f"Rows: {result.csv}")
    _say(f"Plot: {result.plot}")


@app.command()
def embed(
    out: Annotated[str, typer.Option(help="File to write: .safetensors or .npz.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Image files or folders; none: the data set of --data.")
    ] = None,
    domain: Domain = None,
    task: Task = None,
    data: Data = None,
    backbone: Backbone = None,
    device: Device = None,
    amp: Amp = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write features of a data set, or of loose images, in the layout that --features reads.

    Example: vladapt embed --domain medical --data ./xrays --out xrays.safetensors
    """
    from .core.engine.embed import embed as engine_embed

    flags = _data_flags(domain, task, data, None, backbone, device, amp, batch_size, workers, None)
    written = engine_embed(_recipe(None, None, sets, flags), out, images=images or (), reporter=_reporter())
    if as_json:
        _print_json({**vars(written), "skipped": [list(pair) for pair in written.skipped]})
        return
    for name, reason in written.skipped:
        _say(f"Skipped: {name}: {reason}")
    _say(
        f"{written.images} images, {written.dim} wide: {written.file} "
        f"({written.encoded} encoded, {written.from_store} from the store)"
    )


@app.command("list")
def list_names(
    what: Annotated[str, typer.Argument(help="domains, adapters, backbones, losses or recipes.")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List what there is, without importing it.

    Example: vladapt list adapters
    """
    from .core.engine.listing import listing

    rows = listing(what)
    if as_json:
        _print_json({what: rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        _say(f"{row['name']:<{width}}  {row['what']}".rstrip())


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="Name of a packaged recipe.")],
    sets: Sets = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show a recipe as it would run, every default filled in.

    Example: vladapt show medical/default
    """
    resolved = _recipe(recipe, None, sets, {})
    if as_json:
        _print_json(resolved.to_dict())
    else:
        _say(resolved.pretty_text.strip())


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Say what is installed, which device there is, which caches, what is missing and how to get it.

    Example: vladapt doctor
    """
    from .core.engine.doctor import examine
    from .core.engine.tables import findings_table

    findings = examine()
    if as_json:
        _print_json({"findings": [vars(f) for f in findings]})
    else:
        _show(findings_table(findings))


def main(arguments: list[str] | None = None) -> None:
    """Run the app; every expected error becomes one line on stderr and its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(arguments, prog_name="vladapt", standalone_mode=False)
        if code == INTERRUPTED:
            code = interrupted()
    except VladaptError as error:
        code = fail(str(error), error.exit_code, error, arguments)
    except (typer.Abort, KeyboardInterrupt):
        code = interrupted()
    except OSError as error:
        code = fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, error, arguments)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the parser, whichever click typer carries
            sys.exit(fail(usage(error, arguments), 2, error, arguments))
        text = str(error).strip().splitlines()
        code = fail(f"{type(error).__name__}: {text[0] if text else ''} (--debug shows where)", 1, error, arguments)
    sys.exit(code if isinstance(code, int) else 0)


def _recipe(recipe, config, sets, flags: dict[str, Any]):
    from .core.engine.recipe import resolve

    return resolve(recipe=recipe, config=config, sets=sets or (), flags=flags)


def _data_flags(domain, task, data, features, backbone, device, amp, batch_size, workers, classes) -> dict[str, Any]:
    return {
        "domain": domain,
        "task": task,
        "data.path": data,
        "features": features,
        "backbone": backbone,
        "device": device,
        "amp": amp,
        "batch_size": batch_size,
        "workers": workers,
        "classes": classes,
    }


def _reporter():
    from .core.engine.progress import Reporter

    return Reporter(quiet=not is_main_rank())


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in _names(text)]
    except ValueError:
        raise ConfigError(f"{option} {text}: give whole numbers, comma-separated, for instance 1,4,16") from None


def _show(table) -> None:
    if not is_main_rank():
        return
    from rich.console import Console

    Console(highlight=False, markup=False).print(table)


def _say(text: str) -> None:
    if text and is_main_rank():
        typer.echo(text)


def _print_json(value: Any) -> None:
    if is_main_rank():
        typer.echo(json.dumps(value, default=str, allow_nan=False))
