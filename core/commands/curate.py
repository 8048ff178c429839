"""Pairs of image and text that are worth training on: `curate filter`, `dedup`, `prune`, `subset`, `balance`, ..."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.options import (
    CaptionOptions,
    CurateOptions,
    CurationRunOptions,
    RemovalOptions,
    ReportOptions,
    ScoreOptions,
    WriteOptions,
)
from .options import FromEncoding, FromOptions, Json
from .tables import echo, echo_skipped, print_json, reporter

if TYPE_CHECKING:
    from ..engine.curate import Curated

GROUP = "curate"
PURPOSE = "Choose the pairs that a model learns from: score, filter, deduplicate, balance; no image is deleted."
SENTENCES = {  # of `STAGES`, whose module brings numpy
    "filter": "Keep the pairs whose image, text, or agreement of both is good enough.",
    "dedup": "Keep one of several pairs that are the same, or nearly.",
    "prune": "Keep the pairs from which most is learned, in each region of the set.",
    "subset": "Keep a share of the pairs that covers the set, or leads towards another.",
    "balance": "Keep fewer of what there is most of.",
    "decontaminate": "Drop what is in a test set, or nearly.",
}
EXAMPLES = {
    "filter": "--method s-cliploss --features feats",
    "dedup": "--method sem-dedup --features feats",
    "prune": "--method density --features feats",
    "subset": "--method random --set fraction=0.1",
    "balance": "--method metaclip --set metadata=entries.json",
    "decontaminate": "--method decontaminate --features feats --set tests=test-feats",
}


def _command(stage: str) -> Callable[..., None]:
    def command(
        out: Annotated[str, typer.Option(metavar="DIR", help="Folder for decisions, and the table of all pairs.")],
        method: Annotated[str, typer.Option(metavar="NAME", help="Curator (`vladapt list curators`).")],
        how: Annotated[dict[str, Any], FromOptions(CurateOptions)],
        sources: Annotated[
            list[str] | None, typer.Argument(help="Tars, Parquet files, folders, or URLs of these: images with texts.")
        ] = None,
        sets: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="NAME=VALUE", help="An option of the curator. Repeatable."),
        ] = None,
        as_json: Json = False,
    ) -> None:
        from ..engine.curate import curate
        from ..recipes.resolve import parse_set

        options = dict(parse_set(text, "fraction=0.3") for text in sets or ())
        made = curate(method, sources or (), out, options=options, stage=stage, reporter=reporter(), **how)
        if as_json:
            print_json({**vars(made), "folder": str(made.folder)})
        else:
            _tell(made)

    command.__name__ = stage
    command.__doc__ = (
        f"{SENTENCES[stage]}\n\n    Nothing is deleted: for each pair it writes whether it is kept, its weight, the "
        f"reason, and scores.\n\n    Example: vladapt curate {stage} shards/ {EXAMPLES[stage]} --out curated"
    )
    return command


def _tell(made: Curated, whole: bool = True) -> None:
    echo_skipped(made.examples)
    if made.unreadable:
        echo(f"Not readable: {made.unreadable:,} pairs, left out")
    if made.without_features:
        echo(f"Without features: {made.without_features:,} pairs, left out; embed the same sources again")
    echo(f"{made.curator}: {made.kept:,} of {made.pairs:,} pairs kept ({made.kept / max(1, made.pairs):.1%})")
    width = max((len(rule) for rule in made.dropped), default=0)
    for rule, count in sorted(made.dropped.items(), key=lambda each: -each[1]):
        echo(f"  {rule:<{width}}  {count:>10,}  {count / max(1, made.pairs):6.1%}")
    if made.rewritten:
        echo(f"With another text: {made.rewritten:,} of the pairs that are kept; `vladapt curate write` writes it")
    for note in made.notes:
        echo(note)
    if whole:
        echo(f"Decisions: {made.folder}")


def report(
    decisions: Annotated[
        str, typer.Argument(metavar="DIR", help="Decisions, or the folder of --out: then those of the last stage.")
    ],
    how: Annotated[dict[str, Any], FromOptions(ReportOptions)],
    as_json: Json = False,
) -> None:
    """Write a page: what each stage kept, examples, what-if, clusters, associations, and what no stage could check.

    Example: vladapt curate report curated
    """
    from ..engine.curation_report import report_on_curation

    page = report_on_curation(decisions, **how)
    if as_json:
        print_json({"report": str(page)})
    else:
        echo(f"Report: {page}")


def run(
    recipe: Annotated[str, typer.Option(metavar="NAME", help="Which stages (`vladapt list curations`).")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for all that is written.")],
    encoding: Annotated[dict[str, Any], FromEncoding()],
    how: Annotated[dict[str, Any], FromOptions(CurationRunOptions)],
    data: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Tars, Parquet files, folders, or URLs. Repeatable.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="CURATOR.NAME=VALUE", help="An option of a curator of the recipe. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the stages of a recipe: it embeds the pairs, decides, and writes a list, a page and a record.

    The same command goes on where it was stopped.

    Example: vladapt curate run --recipe small-domain --data shards/ --out curated
    """
    from ..engine.curate_run import run_curation
    from ..recipes.resolve import parse_set

    options = dict(parse_set(text, "s-cliploss.keep_first=0.8") for text in sets or ())
    made = run_curation(recipe, data or (), out, options=options, encoding=encoding, reporter=reporter(), **how)
    if as_json:
        stages = [{**vars(each), "folder": str(each.folder)} for each in made.stages]
        written = {name: str(path) for name, path in made.written.items()}
        print_json({**vars(made), "out": str(made.out), "stages": stages, "written": written})
        return
    for each in made.stages:
        _tell(each, whole=False)
    for note in made.notes:
        echo(note)
    echo(f"Kept in all: {made.kept:,} of {made.pairs:,} pairs ({made.kept / max(1, made.pairs):.1%})")
    for name, path in made.written.items():
        echo(f"{name.capitalize()}: {path}")


def remove(
    how: Annotated[dict[str, Any], FromOptions(RemovalOptions)],
    sources: Annotated[
        list[str] | None, typer.Argument(help="The pairs, as for the stages before; none with --index alone.")
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder of the decisions, as for other stages.")
    ] = None,
    index: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="An index whose entries go too. Repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take opt-outs and known images out of decisions and indices.

    Example: vladapt curate remove shards/ --ids opt-outs.txt --after curated/0f3a --out curated --index photos.index
    """
    from ..engine.removal import remove as engine_remove

    removed = engine_remove(sources or (), out, indices=index or (), reporter=reporter(), **how)
    if as_json:
        decisions = removed.decisions and {**vars(removed.decisions), "folder": str(removed.decisions.folder)}
        print_json({**vars(removed), "decisions": decisions})
        return
    if removed.decisions is not None:
        _tell(removed.decisions)
        folder = removed.decisions.folder
        echo(f"Lists and tars of before still have these pairs: vladapt curate write {folder} --out NEW_DIR")
    for name, count in removed.indices.items():
        unchecked = removed.unchecked[name]
        rest = f"; {unchecked:,} cannot be checked by their sums (in tars, or files gone)" if unchecked else ""
        echo(f"{name}: {count:,} entries deleted{rest}")


def write(
    decisions: Annotated[
        str, typer.Argument(metavar="DIR", help="Decisions, or the folder of --out: then those of the last stage.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the list, tars, ids and card.")],
    how: Annotated[dict[str, Any], FromOptions(WriteOptions)],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Where the pairs are, if not where they were. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what all stages up to some decisions keep: LIST.parquet for `pretrain`, tars, DataComp's ids, a card.

    Example: vladapt curate write curated --out chosen --write list,tars
    """
    from ..engine.curate_write import write_kept

    made = write_kept(decisions, out, sources=data or (), reporter=reporter(), **how)
    written = {what: str(path) for what, path in made.written.items()}
    if as_json:
        print_json({**vars(made), "decisions": str(made.decisions), "written": written})
        return
    echo(f"Kept: {made.kept:,} pairs, with a weight of {made.weight:,.0f} in all")
    for what, path in written.items():
        echo(f"{what.capitalize()}: {path}")


def caption(
    sources: Annotated[list[str], typer.Argument(help="Tars, Parquet files, folders, or URLs of these: images.")],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Folder of a model of transformers, or its id on the hub.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the captions.")],
    how: Annotated[dict[str, Any], FromOptions(CaptionOptions)],
    as_json: Json = False,
) -> None:
    """Write a caption for each image, by a model of transformers such as BLIP; `curate write --captions` lists them.

    Example: vladapt curate caption shards/ --model Salesforce/blip-image-captioning-base --out captions --top-p 0.9
    """
    from ..engine.curate_caption import caption_pairs

    made = caption_pairs(model, sources, out, reporter=reporter(), **how)
    if as_json:
        print_json(vars(made))
        return
    echo_skipped(made.examples)
    echo(f"Captions: {made.captions:,} in {made.folder}")


def score(
    sources: Annotated[
        list[str], typer.Argument(help="Tars, Parquet files, folders, or URLs of these: images with texts.")
    ],
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A BLIP with a head for matching: its folder, or its id on the hub.")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the scores.")],
    how: Annotated[dict[str, Any], FromOptions(ScoreOptions)],
    as_json: Json = False,
) -> None:
    """Tell for each pair how probable it is that image and text match, for `filter --method blip --columns DIR`.

    Example: vladapt curate score shards/ --model Salesforce/blip-itm-base-coco --out scores
    """
    from ..engine.curate_score import score_pairs

    made = score_pairs(model, sources, out, reporter=reporter(), **how)
    if as_json:
        print_json(vars(made))
        return
    echo_skipped(made.examples)
    echo(f"Scores: of {made.pairs:,} pairs in {made.folder}")


COMMANDS = {
    "run": run,
    "score": score,
    "caption": caption,
    "write": write,
    "remove": remove,
    **{stage: _command(stage) for stage in SENTENCES},
    "report": report,
}
