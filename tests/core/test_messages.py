"""Messages are one line of bounded length that moves no cursor, whatever values they quote."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys

import pytest

from vladapt.core.errors import (
    LONGEST_MESSAGE,
    LONGEST_VALUE,
    ConfigError,
    DataError,
    as_message,
    did_you_mean,
    printable,
    shortened,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("caf\udce9.png", r"caf\xe9.png"),
        ("half \ud83d", r"half \ud83d"),
        ("turned\u202e", r"turned\u202e"),
        ("\x9bm\x7f", r"\x9bm\x7f"),
        ("line\u2028end", r"line\u2028end"),
    ],
)
def test_control_characters_and_bytes_become_escapes(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_some_characters_may_stay():
    assert printable("a\tb\nc\x1b", keep="\n\t") == "a\tb\nc\\x1b"


def test_a_short_value_is_quoted_whole_and_a_long_one_cut():
    assert shortened("x" * LONGEST_VALUE) == "x" * LONGEST_VALUE
    assert shortened("x" * 10**7) == "x" * (LONGEST_VALUE - 1) + "…"
    assert shortened({"a": 1}) == "{'a': 1}"
    assert len(shortened("\x1b" * 10**6)) <= LONGEST_VALUE


def test_a_message_of_ten_megabytes_keeps_its_place_and_its_cure():
    text = str(DataError(f"labels.csv line 3: label '{'x' * 10**7}' is unknown; correct the line"))
    assert len(text) <= LONGEST_MESSAGE
    assert text.startswith("labels.csv line 3: label 'xxx") and text.endswith("is unknown; correct the line")


@pytest.mark.parametrize("kind", [DataError, ConfigError])
def test_an_error_is_one_line(kind):
    assert str(kind("a\n b\x1b[31m")) == r"a b\x1b[31m"


def test_an_error_crosses_processes_as_it_is():
    error = pickle.loads(pickle.dumps(DataError("a\x1bb")))
    assert type(error) is DataError and str(error) == r"a\x1bb"


def test_a_message_that_is_made_again_stays():
    once = as_message("é\x1b" + "y" * 2000)
    assert as_message(once) == once


def test_a_long_name_has_its_nearest_at_once():
    assert "did you mean" not in did_you_mean("x" * 10**7, ["alpha", "beta"])


def test_near_names_are_listed_as_in_a_sentence():
    assert did_you_mean("c3", ["c0", "c1", "c2"]) == "did you mean c2, c1 or c0?"
    assert did_you_mean("ape-s", ["ape-t", "gda"]) == "did you mean ape-t?"


def test_near_names_are_near_in_capitals_too():
    assert did_you_mean("TIP-ADAPTER", ["tip-adapter", "Gda"]) == "did you mean tip-adapter?"
    assert did_you_mean("gda", ["tip-adapter", "GDA"]) == "did you mean GDA?"


def test_what_is_printed_holds_escapes_and_no_markup(capsys):
    from rich.table import Table

    from vladapt.core.commands.tables import echo, echo_skipped, show_table

    table = Table("name\x1b]0;title\x07")
    table.add_row("[red]x[/red] :smile: \udce9")
    show_table(table)
    echo("two\nlines\x1b[2J")
    echo_skipped([("a\nb.png", "a\nb.png: empty\x1b")])
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\udce9" not in out and "\x07" not in out
    assert "[red]x[/red] :smile:" in out and "two\nlines\\x1b[2J" in out


def test_progress_lines_hold_escapes():
    from vladapt.core.runtime.progress import PlainConsole

    console = PlainConsole(file=io.StringIO())
    console.print("Reading \x1b[31m[bold]\udce9")
    assert console.file.getvalue() == "Reading \\x1b[31m[bold]\\xe9\n"


def test_a_stream_of_another_encoding_gets_escapes():
    program = "import sys; sys.argv = ['vladapt', 'list', 'grün']; from vladapt.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(filter(None, sys.path)), "PATH": ""},
        capture_output=True,
    )
    assert ended.returncode == 2 and rb"gr\xfcn" in ended.stderr and ended.stderr.count(b"\n") == 1


def test_words_of_a_domain_reach_tables_in_groups_of_groups(capsys):
    """As those of `--by`, whose sentences stand between them."""
    from rich.console import Group
    from rich.table import Table

    from vladapt.core.commands.tables import show_table

    inner = Table("further images", title="images by")
    show_table(Group(Table("images"), Group(inner, "a sentence on images")), {"images": "scans"})
    out = capsys.readouterr().out
    assert "scans by" in out and "a sentence on images" in out


def test_titles_of_rows_are_in_the_words_of_a_domain_and_names_of_files_are_not(capsys):
    from rich.table import Table

    from vladapt.core.commands.tables import show_table

    for header, cell in (("", "image to text"), ("file", "my image 3.png")):
        table = Table(header)
        table.add_row(cell)
        show_table(table, {"image": "clip"})
    out = capsys.readouterr().out
    assert "clip to text" in out and "my image 3.png" in out


def test_a_title_and_a_caption_are_not_broken_at_the_width_of_their_table(capsys):
    from rich.console import Group
    from rich.table import Table

    from vladapt.core.commands.tables import show_table

    table = Table("a", title="a title much wider than its table", caption="each second counts once")
    table.add_row("1")
    show_table(Group(table))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a title much wider than its table" and lines[-1] == "each second counts once"
