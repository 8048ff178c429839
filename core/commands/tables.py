"""What commands show besides a task's own tables: comparisons, search results, the doctor's findings, backbones."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from ..contracts.families import FAMILIES
from ..errors import is_main_rank, printable

if TYPE_CHECKING:
    from ..contracts.domain import OwnFiles
    from ..contracts.recipe import Recipe
    from ..runtime.progress import Timing

WORDS = {"auroc": "macro AUROC"}
"""Metrics that are not written as they are called."""
RECALLS = frozenset({"image_to_text/r1", "text_to_image/r1"})
"""Shares, whose names do not say so."""


def comparison_table(summary: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()) -> Table:
    """Methods down, data sets and shots across, mean and standard deviation over splits, or over seeds.

    Args:
        published: as for `comparison_cells`.
    """
    metric = summary[0]["metric"] if summary else "accuracy"
    seeds = max((row["seeds"] for row in summary), default=0)
    shots = {row["shots"] for row in summary}
    splits = max((row.get("splits", 1) for row in summary), default=1)
    spread = f"{splits} splits of the data" if splits > 1 else f"{seeds} seed{'s' * (seeds != 1)} on one test set"
    counts = sorted({row["task_count"] for row in summary if row.get("tasks")})
    if counts:
        each = f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} tasks"
        spread = f"{seeds} seeds, each with {each}" if seeds > 1 else each
    arrow = " ↑" if _in_percent(metric) or metric in WORDS else ""  # which way others go is not known here
    unit = " in %" if _in_percent(metric) else ""
    means = "mean ± std over " if any(row["std"] is not None for row in summary) else ""
    title = f"{WORDS.get(metric, metric.replace('_', ' '))}{arrow}{unit}, {means}{spread}"
    title += f", {_shots(*shots)}" if len(shots) == 1 and None not in shots and not counts else ""
    return named_table(title, comparison_cells(summary, published))


def comparison_markdown(summary: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()) -> str:
    """The same table for a document."""
    return markdown_of(comparison_cells(summary, published))


def named_table(title: str, cells: Sequence[Sequence[str]], names: Collection[str] = ()) -> Table:
    """Names on the left, values on the right, below a header.

    Args:
        names: columns of names; by default the first.
    """
    table = Table(title=title, title_justify="left")
    header, *rows = cells
    for name in header:
        is_name = name in (names or header[:1])
        table.add_column(name, justify="left" if is_name else "right", no_wrap=is_name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown_of(cells: Sequence[Sequence[str]]) -> str:
    """The same for a document."""
    header, *rows = cells
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def front_table(front: Sequence[Mapping[str, Any]], method: str = "adapter") -> Table:
    """What the image towers of compared backbones cost, beside what is reached with them."""
    title = "Cost of an image in its tower; * no faster one is as good"
    return named_table(title, front_cells(front, method))


def front_markdown(front: Sequence[Mapping[str, Any]], method: str = "adapter") -> str:
    """The same table for a document."""
    return markdown_of(front_cells(front, method))


def front_cells(front: Sequence[Mapping[str, Any]], method: str = "adapter") -> list[list[str]]:
    """Rows of text of `Comparison.front`, the header first."""
    metric = front[0]["metric"] if front else "accuracy"
    name = WORDS.get(metric, metric.replace("_", " "))
    rows = [
        [
            f"{row['backbone']}{' *' if row['on_front'] else ''}",
            f"{row['milliseconds']:.3g}",
            f"{row['gflop']:.3g}",
            f"{row['parameters']:.3g}",
            _mean_and_std(metric, row["score"], None),
            row[method],
        ]
        for row in front
    ]
    return [["backbone", "ms", "GFLOP", "params (M)", name, method], *rows]


def comparison_cells(
    summary: Sequence[Mapping[str, Any]], published: Sequence[Mapping[str, Any]] = ()
) -> list[list[str]]:
    """Rows of text, the header first; of several data sets with their mean, as papers print it. A set that others are
    tested with is not part of the mean.

    Args:
        published: rows with a published accuracy (`Comparison.published`), which are shown under ours.
    """
    method = next(iter(summary[0])) if summary else "adapter"
    backbones = any(row.get("backbone") for row in summary)
    summary = [_placed(row) for row in summary]
    columns = list(dict.fromkeys((row["set"], row["at"]) for row in summary))
    order = list(dict.fromkeys(row["set"] for row in summary))
    columns.sort(key=lambda column: (order.index(column[0]), column[1][0] or 0))
    cells = {
        (row[method], row["set"], row["at"]): _mean_and_std(row["metric"], row["mean"], row["std"]) for row in summary
    }
    targets = [each for each in order if not any(row["set"] == each and row["is_source"] for row in summary)]
    several, same = len(order) > 1, len({at for _, at in columns}) == 1
    titles = {each: each if each in targets else f"{each} (source)" for each in order}
    names = [titles[each] if several and same else f"{titles[each]} {_at(at)}".strip() for each, at in columns]
    methods: dict[str, list[float]] = {}
    for row in summary:
        methods.setdefault(row[method], []).append(row["seconds"])
    amounts = list(dict.fromkeys(at for _, at in columns)) if len(targets) > 1 and not backbones else []
    mean = "mean" if targets == order else "target mean"
    header = [method, *names, *(f"{mean} {'' if same else _at(at)}".strip() for at in amounts), "seconds per fit"]
    rows = [[name, *(cells.get((name, each, at), "–") for each, at in columns)] for name in methods]
    for line in rows:
        mine = [each for each in summary if each[method] == line[0] and each["set"] in targets]
        line += [_over_sets([each for each in mine if each["at"] == at], targets) for at in amounts]
    places = [*columns, *(("mean", at) for at in amounts)]
    row_of = {(row[method], row["set"], row["at"]): row for row in map(_placed, published)}
    cells_of = [[*row, _seconds(methods[row[0]])] for row in rows]
    lines = [header, *(line for row in cells_of for line in [row, *_published_rows(row[0], places, row_of)])]
    if not any(row.get("tasks") for row in summary):
        return lines
    return [[*cells] for cells in zip(["tasks", *header[1:]], *lines[1:])]  # many kinds of tasks go down


def _published_rows(name: str, places: Sequence[tuple], row_of: Mapping[tuple, Mapping[str, Any]]) -> list[list[str]]:
    """Under a method its published numbers and how ours differ; nothing where none is known."""
    of = [row_of.get((name, *place)) for place in places]
    if not any(of):
        return []
    numbers = ["" if row is None else f"{100 * row['published']:.1f}" for row in of]
    differences = ["" if row is None else signed("accuracy", row["published_difference"]) for row in of]
    return [["  published", *numbers, ""], ["  difference", *differences, ""]]


def published_lines(published: Sequence[Mapping[str, Any]], method: str = "adapter") -> list[str]:
    """Where the published numbers were read."""
    by_source: dict[str, list[str]] = {}
    for row in published:
        by_source.setdefault(row["published_in"], []).append(row[method])
    return [f"Published for {', '.join(dict.fromkeys(of))}: {source}." for source, of in by_source.items()]


def _placed(row: Mapping[str, Any]) -> dict[str, Any]:
    """With the words of its data set, its place on the axis of shots, and whether others are tested with it."""
    place = {"set": " ".join(filter(None, (row["data"], row.get("backbone")))), "at": (row["shots"], row.get("tasks"))}
    return {**row, **place, "is_source": bool(row.get("source")) and row["source"] == row["data"]}


def _at(at: tuple[int | None, str | None]) -> str:
    """The place of a column: a kind of tasks, or a number of shots."""
    return at[1] or _shots(at[0])


def _over_sets(rows: Sequence[Mapping[str, Any]], sets: Sequence[str]) -> str:
    """The mean over data sets, where a method has a number on each."""
    if len({row["set"] for row in rows}) < len(sets):
        return "–"
    mean = math.fsum(row["mean"] for row in rows) / len(rows)
    return _mean_and_std(rows[0]["metric"], mean, None)


def comparison_tests(tests: Sequence[Mapping[str, Any]], method: str = "adapter") -> list[str]:
    """Lines on the methods against the best baseline: differences with their intervals, and whether they are more than
    chance."""
    from ..metrics.significance import FEWEST_SPLITS

    lines: list[str] = []
    places = dict.fromkeys((each["data"], each["shots"], each.get("backbone", "")) for each in tests)
    for place in places:
        at = [each for each in tests if (each["data"], each["shots"], each.get("backbone", "")) == place]
        where = ", ".join(filter(None, (place[0], place[2], _shots(place[1]))))
        unit = ", in points" if _in_percent(at[0]["metric"]) else ""
        gains = ", ".join(f"{each[method]} {_gain(each)}" for each in at)
        lines.append(f"Against {at[0]['baseline']}, the best baseline, {where}{unit}: {gains}.")
    if tests:
        several = len({each[method] for each in tests})
        adjusted = f", both adjusted for {several} methods (Holm)" if several > 1 else ""
        if any(each["p_holm"] is not None for each in tests):
            lines.append(
                f"In brackets: 95 % intervals and p values{adjusted}: {_tests_words(tests)}; at 0.05 or more the "
                "difference can be chance."
            )
        if any(each["p_holm"] is None for each in tests):
            lines.append(f"Fewer than {FEWEST_SPLITS} splits are too few for intervals and tests.")
    return lines


def _gain(each: Mapping[str, Any]) -> str:
    """A difference, its interval and its p value."""
    from ..metrics.significance import p_words

    between = " to ".join(signed(each["metric"], bound) for bound in each.get("interval") or ())
    tested = None if each["p_holm"] is None else p_words(each["p_holm"])
    brackets = ", ".join(filter(None, (between, tested)))
    return f"{signed(each['metric'], each['difference'])}{f' ({brackets})' if brackets else ''}"


def signed(metric: str, difference: float) -> str:
    """A difference with its sign, in points where the metric is a share."""
    text = f"{100 * difference:+.1f}" if _in_percent(metric) else f"{difference:+.3f}"
    return text.replace("-", "−")


def _tests_words(tests: Sequence[Mapping[str, Any]]) -> str:
    """Which test was made, and of which data set where they differ."""
    of: dict[str, list[str]] = {}
    for each in (each for each in tests if each["p_holm"] is not None):
        of.setdefault(_test_words(each), []).append(each["data"])
    if len(of) == 1:
        return next(iter(of))
    return "; ".join(f"{', '.join(dict.fromkeys(data))}: {words}" for words, data in of.items())


def _test_words(each: Mapping[str, Any]) -> str:
    if "splits" in each:
        return f"corrected resampled t-test over {each['splits']} splits (Nadeau and Bengio)"
    by_metric = {"auroc": "DeLong’s test", "accuracy": "McNemar’s test"}
    how = each.get("test") or by_metric.get(each["metric"], "score test class by class")
    groups = f"{each['test_groups']} groups of the " if each.get("test_groups") else ""
    return f"{how} on the {groups}{each['test_images']} test images"


def _mean_and_std(metric: str, mean: float, std: float | None) -> str:
    """Without a spread of a single number."""
    texts = [f"{100 * each:.1f}" if _in_percent(metric) else f"{each:.3f}" for each in (mean, std) if each is not None]
    return " ± ".join(texts)


def _in_percent(metric: str) -> bool:
    """AUROC and errors are no shares of anything."""
    from ..runs.sections import is_share

    return is_share(metric) or metric in RECALLS


def _shots(count: int | None) -> str:
    return "all shots" if count is None else f"{count} shot{'s' * (count != 1)}"


def _seconds(of_fits: Sequence[float]) -> str:
    mean = sum(of_fits) / len(of_fits)
    return f"{mean:.2f}" if mean < 10 else f"{mean:.0f}"


def hits_table(hits: Sequence) -> Table:
    """One row per result: rank, cosine, what it is, what is known of it besides, its captions where it has some."""
    captioned, grouped = any(hit.entry.captions for hit in hits), any(hit.cluster is not None for hit in hits)
    facts = list(dict.fromkeys(name for hit in hits for name in hit.entry.about))
    facts = [name for name in facts if not all(hit.entry.id.startswith(hit.entry.about.get(name, "-")) for hit in hits)]
    table = Table()
    for name in (*(["group"] if grouped else []), "rank", "score"):
        table.add_column(name, justify="right")
    for name in ("id", *facts, *(["text"] if captioned else [])):
        table.add_column(name, overflow="fold")
    for hit in hits:
        cells = [*([str(hit.cluster)] if grouped else []), str(hit.rank), f"{hit.score:.4f}", hit.entry.id]
        cells += [hit.entry.about.get(name, "") for name in facts]
        table.add_row(*cells, *(["\n".join(hit.entry.captions)] if captioned else []))
    return table


def composed_table(done: Any) -> Table:
    """One row per score of composed queries, beside the image and the words alone and a random order; of many parts,
    the first measure of each."""
    parts = {score.part for score in done.scores}
    title = f"{done.set}: {done.queries:,} queries, {done.gallery:,} images, in %, 95 % intervals"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in (done.compose, "image alone", "words alone", "random order"):
        table.add_column(name, justify="right")
    first = done.scores[0].metric
    for score in done.scores:
        if len(parts) > 1 and score.part != "mean" and score.metric != first:
            continue
        low, high = (f"{100 * bound:.1f}" for bound in score.interval)
        own = f"{100 * score.value:.1f} ({low}–{high})"
        others = (f"{100 * value:.1f}" for value in (score.image, score.text, score.chance))
        table.add_row(" ".join(filter(None, (score.metric, score.part))), own, *others)
    return table


def judged_table(judged: Sequence[Mapping[str, Any]]) -> Table:
    """The methods among which one was taken."""
    from ..runs.run_sections import judged_texts

    title, last = "Methods, scored on parts of the support they did not learn from", ("standard error", "right")
    if "why" in judged[0]:
        title, last = "Methods that need no labels, judged by the images", ("why", "left")
    table = Table(title=title)
    for name, justify in (("method", "left"), (str(judged[0]["metric"]), "right"), last):
        table.add_column(name, justify=justify)
    table.add_column("")
    for each in judged:
        table.add_row(each["method"], *judged_texts(each), "taken" if each["taken"] else "")
    return table


def findings_table(findings: Sequence) -> Table:
    """The doctor's table."""
    table = Table()
    for name in ("", "what", "found", "cure"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        table.add_row("ok" if finding.ok else "--", finding.what, finding.found, finding.cure)
    return table


def reporter(words: Mapping[str, str] | None = None):
    """Progress on stderr, in the words of the domain; silent on the other ranks."""
    from ..runs.sections import worded
    from ..runtime.progress import Reporter

    return Reporter(not is_main_rank(), partial(worded, words=words or {}))


def words_of(recipe: Recipe) -> Mapping[str, str]:
    """What the domain and the task of a recipe call images and patients."""
    from ..runs.sections import words_in

    return words_in(recipe.domain, recipe.task, recipe.reading)


def timing_table(timing: Timing) -> Table:
    """Parts of a command down, their seconds across."""
    table = Table("part", caption="each second counts for the innermost part alone")
    for title in ("CPU seconds", "seconds"):
        table.add_column(title, justify="right")
    for name, seconds in timing.seconds.items():
        table.add_row(name, *(f"{value:.2f}" for value in seconds))
    return table


def show_table(table, words: Mapping[str, str] | None = None) -> None:
    """A rich table, or a group of them, as wide as the terminal.

    Args:
        words: of the domain, that its title, headers and caption are put in, and rows' titles below no header.
    """
    if not is_main_rank():
        return
    if words:
        from ..runs.sections import worded

        for each in _tables(table):
            each.title, each.caption = (text and worded(str(text), words) for text in (each.title, each.caption))
            for column in each.columns:
                column.header = worded(str(column.header), words)
            if each.columns and not each.columns[0].header:
                titles = each.columns[0]._cells
                titles[:] = [worded(cell, words) if type(cell) is str else cell for cell in titles]
    from ..runtime.progress import PlainConsole

    PlainConsole().print(_with_title_lines(table))


def _with_title_lines(shown: Any) -> Any:
    """Titles and captions as lines of their own: they may be wider than their table."""
    from rich.console import Group

    if isinstance(shown, Group):
        return Group(*map(_with_title_lines, shown.renderables))
    if not isinstance(shown, Table):
        return shown
    title, caption, shown.title, shown.caption = shown.title, shown.caption, None, None
    return Group(*(part for part in (title, shown, caption) if part))


def _tables(shown: Any) -> Iterator[Any]:
    """The tables of a group of tables, sentences and further groups."""
    from rich.console import Group

    if isinstance(shown, Group):
        for each in shown.renderables:
            yield from _tables(each)
    elif isinstance(shown, Table):
        yield shown


def facts_table(facts: Mapping[str, Any]):
    """Facts by name, those of groups below the name of theirs."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in _flat(facts):
        table.add_row(name.replace("_", " "), _fact(value))
    return table


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        listed = isinstance(value, (list, tuple)) and any(isinstance(each, Mapping) for each in value)
        inner = {str(place): each for place, each in enumerate(value)} if listed else value
        yield from _flat(inner, f"{before}{name}, ") if isinstance(inner, Mapping) else [(f"{before}{name}", value)]


def _fact(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(f"({_fact(each)})" if isinstance(each, (list, tuple)) else _fact(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def echo(shown: Any) -> None:
    """A line on stdout, or a rich table; nothing for an empty text."""
    if not isinstance(shown, str):
        show_table(shown)
    elif shown and is_main_rank():
        typer.echo(printable(shown, keep="\n\t"))


def echo_notes(notes: Iterable[str], words: Mapping[str, str] | None = None) -> None:
    """A line each, as a sentence, in the words of the domain."""
    from ..runs.sections import worded

    for note in notes:
        kind = "" if note.startswith("Warning: ") else "Note: "
        echo(worded(f"{kind}{note[0].upper()}{note[1:].rstrip('.')}.", words or {}))


def echo_skipped(pairs: Iterable[tuple[str, str]]) -> None:
    """A line each of what was left out, and why; the reason may begin with the name again."""
    for name, reason in pairs:
        echo(f"Skipped: {name}: {reason.removeprefix(f'{name}: ')}")


def echo_shards(written: Any, words: Mapping[str, str], further: str = "") -> None:
    """What was written as shards, and what could not be read.

    Args:
        words: in place of "image".
        further: that is said of them.
    """
    from ..runs.sections import plural, worded

    before = f" ({written.shards_before:,} were there before)" if written.shards_before else ""
    made = f"{plural(written.images, 'image')} in {plural(written.shards, 'shard')}"
    echo(f"{worded(made, words)}{before}{further}: {written.folder}")
    if written.unreadable:
        echo(f"Not readable: {written.unreadable:,}; {written.folder}/_state/done lists them")
    echo_skipped(written.skipped)


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout."""
    from ..runtime.reading import json_text

    if is_main_rank():
        typer.echo(json_text(value, default=str, ensure_ascii=True))


def published_backbone_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Families as they are given, then three lines per published model: name, facts, and how it comes here."""
    families = [row for row in rows if "id" not in row]
    width = max((len(row["name"]) for row in families), default=0)
    lines = [f"{row['name']:<{width}}  {row['what']}" for row in families]
    models = [row for row in rows if "id" in row]
    if families and models:
        lines += ["", "Published models, each under the name to give (details: vladapt show NAME):", ""]
    for row in models:
        place = "in the local cache" if row["cached"] else f"not in the local cache: {row['fetch']}"
        lines += [f"{row['name']}: {row['what']}", f"    {row['id']}; {_model_facts(row)}", f"    {place}"]
    return lines or ["no published model of that kind"]


def _model_facts(row: Mapping[str, Any]) -> str:
    licence = row["licence"] + (" (NON-COMMERCIAL)" if row["non_commercial"] else "")
    licence += " (gated)" if row["gated"] else ""
    can = set(row["capabilities"])
    everything = FAMILIES["open_clip"]["capabilities"]
    if "prompt" not in can:
        ability = "image tower only"
    else:
        ability = "all capabilities" if can >= everything else f"lacks {', '.join(sorted(everything - can))}"
    facts = [f"width {row['width']}", f"{row['resolution']} px", f"{row['parameters_millions']:g} M parameters"]
    return f"{', '.join(facts)}; licence {licence}; {ability}; for {', '.join(row['domains'])}"


def own_table(written: OwnFiles) -> Table:
    """What a domain's own files tell of; numbers to the right."""
    table = Table()
    for title, form in written.columns.items():
        table.add_column(title, justify="left" if form.endswith("}") and ":" not in form else "right", overflow="fold")
    for cells in written.cells():
        table.add_row(*cells)
    return table
