"""What can go wrong, and how a command says so: one line, and an exit code. Imports nothing heavy."""

from __future__ import annotations

import difflib
import errno
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

INTERRUPTED = 130
"""Exit code of a command that a signal stopped; the parser, which catches Ctrl-C itself, returns it, too."""

NUMBERS = {"integer": "a whole number", "float": "a number", "number": "a number"}
"""What the parser calls a number -> how we do."""


NOT_FINITE = "the model gives NaN or infinity for it"
LONGEST_VALUE = 80
"""Characters of a value that a message quotes."""
LONGEST_MESSAGE = 580
"""Characters of a message; of a longer one the middle goes, since it begins with the place and ends with the cure."""
REASON_CHARACTERS = 300
"""Of why an image cannot be used."""
LESS_MEMORY = (
    "lower --batch-size or --workers, give fewer or smaller images, or allow this process more memory (ulimit -v, the "
    "container's limit)"
)
FULL = (errno.ENOSPC, errno.EDQUOT)
CURES = {
    **dict.fromkeys(FULL, "free some space or give another --out"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check who may read and write it"),
    errno.EROFS: "give a place that can be written",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ENOMEM: LESS_MEMORY,
    errno.EMFILE: "allow this process more open files (ulimit -n)",
}
"""Of what the system refuses, wherever that happens."""
OF_MEMORY = re.compile(r"allocate memory|out of memory|bad_alloc|failed to map segment|can't start new thread", re.I)
"""How torch, its libraries and the system say that no memory is left, in errors of many types."""
IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a cursor, turns the direction of writing, ends a line, or cannot be encoded (bytes of a file's name)."""


class VladaptError(Exception):
    """Base of all expected errors. `exit_code` is what the command line ends with.

    The message becomes one line of at most `LONGEST_MESSAGE` characters, whatever values it quotes.
    """

    exit_code = 1

    def __init__(self, message: object = ""):
        super().__init__(as_message(str(message)))

    def told(self, arguments: list[str], worded: Callable[[str], str] = str) -> int:
        """Tell the user, in one line on stderr.

        Args:
            arguments: of the command; with "--debug" among them the traceback comes first.
            worded: puts a message in the words of the domain.

        Returns:
            The exit code.
        """
        return fail(worded(str(self)), self.exit_code, self, arguments)


class Stopped(VladaptError):
    """A signal ended what the same command would not continue, unless it says more.

    Args:
        further: flags, with their values or "", that the command which continues it needs besides.
    """

    def __init__(self, further: Mapping[str, str]):
        super().__init__(f"stopped; {' '.join(further)} continue it")
        self.further = further

    def command(self, arguments: list[str]) -> str:
        """The command that continues one of these arguments."""
        flags = {argument.partition("=")[0] for argument in arguments}
        words = [word for flag, value in self.further.items() if flag not in flags for word in (flag, value) if word]
        return shlex.join(["vladapt", *arguments, *words])


class DataError(VladaptError):
    """The user's data, a run folder or a checkpoint cannot be used as it is."""

    @classmethod
    def unwritable(cls, folder: object, error: Exception, cure: str = "give another --out") -> Self:
        """Of a folder in which nothing can be written.

        Args:
            error: what the system says.
            cure: what to do, besides freeing space where that may help.
        """
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        space = "free some space or " * (getattr(error, "errno", None) in (None, *FULL))
        return cls(f"{folder}: cannot be written there ({reason}); {space}{cure}")

    @classmethod
    def not_finite(cls, names: Sequence[str]) -> Self:
        """Of images whose scores are no numbers, the first named: an answer made of such a score would be any."""
        others = f" and for {len(names) - 1} other image{'s' * (len(names) > 2)}" if len(names) > 1 else ""
        return cls(
            f"{names[0]}: {NOT_FINITE}{others}; copy the run again, or fit again, with a smaller --lr or no --amp; "
            "where other images have answers, replace or remove this one"
        )


class NoClassesError(DataError):
    """There are images, and nothing that says which class each of them shows."""


class LimitError(DataError):
    """The data is larger, or takes longer, than is allowed here: another limit, or another machine, may read it."""

    @classmethod
    def too_large(cls, what: str, limit: int, cure: str = "raise --max-pixels") -> LimitError:
        """Of "scan.png: 40000 x 40000 pixels"."""
        return cls(f"{what}, the limit is {limit} (a decompression bomb?); cut it into tiles, or {cure}")


class SourceError(DataError):
    """Where images come from cannot be read now, or has changed: no fault of an image, and it may go well later."""


class CacheError(DataError):
    """The cache cannot be written: no fault of the image or file whose features were to be kept there."""


class ConfigError(VladaptError):
    """An option, a recipe or a name is wrong: a usage error."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name (adapter, domain, backbone, loss, option) that nothing has; the message says the nearest right ones."""


class CapabilityError(VladaptError):
    """A backbone, a feature file or an adapter was asked for something it does not have."""


def printable(text: str, keep: str = "") -> str:
    """The text with control characters, line ends and bytes that are no text as escapes: \\x1b, \\n, \\xe9.

    Args:
        keep: characters that stay as they are.
    """
    return UNPRINTABLE.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def shortened(value: object, most: int = LONGEST_VALUE) -> str:
    """A value as a message quotes it: printable, and cut with an ellipsis."""
    text = value if isinstance(value, str) else str(value)
    cut = printable(text[: most + 1])
    return cut if len(text) <= most and len(cut) <= 2 * most else f"{cut[: most - 1]}…"


def as_message(text: str) -> str:
    """One line of at most `LONGEST_MESSAGE` characters; what the last line says of a fault in a process that makes
    samples, which torch tells by a whole traceback."""
    if IN_WORKER.match(text):
        kind, colon, said = text.strip().splitlines()[-1].partition(": ")
        text = said if colon else kind
    if len(text) > 4 * LONGEST_MESSAGE:  # of ten million characters only the ends are looked at
        text = f"{text[: 2 * LONGEST_MESSAGE]} … {text[-2 * LONGEST_MESSAGE :]}"
    line = printable(" ".join(text.split()))
    if len(line) <= LONGEST_MESSAGE:
        return line
    head = LONGEST_MESSAGE * 2 // 3
    return f"{line[:head]} … {line[head + 3 - LONGEST_MESSAGE :]}"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is not UTF-8, as `os.fsdecode` gives it
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def no_memory(error: BaseException) -> bool:
    """Whether an error says that no memory is left, which is a matter of the machine and may be otherwise next time."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (not isinstance(error, VladaptError) and bool(OF_MEMORY.search(str(error))))
    )


def one_line(error: BaseException) -> str:
    """Why an image cannot be used: our own message as it is, a decoder's with its type, on one line."""
    if no_memory(error):
        return "needs more memory than there is; lower --workers, or leave it out"
    text = " ".join(str(error).split())
    if not isinstance(error, DataError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:REASON_CHARACTERS]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half sentence with the nearest right names, or all of them."""
    known = sorted(set(known))
    near = near_names(name, known, 0.5)
    if near:
        return f"did you mean {alternatives(near)}?"
    return f"there are: {', '.join(known)}" if known else "there are none"


def alternatives(names: list[str]) -> str:
    """["a", "b", "c"] -> "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def first_of(names: Sequence[str], most: int) -> str:
    """["a", "b", "c", "d"] -> "a, b and 2 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def near_names(name: str, known: Iterable[str], likeness: float = 0.8) -> list[str]:
    """Up to three known names that one may be a slip for, the nearest first; likeness 1 is the same but for case."""
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name[:LONGEST_VALUE].casefold(), folded, n=3, cutoff=likeness)
    return [folded[each] for each in near]


def check_given(name: str, value: object, cure: str = "give one, or omit the option") -> None:
    """Raise the ConfigError of a value that is an empty text, or holds one: what a script makes of a variable that is
    not set."""
    texts = value if isinstance(value, (list, tuple)) else (value,)
    if any(isinstance(text, str) and not text.strip() for text in texts):
        raise ConfigError(f"{name}: the value is empty; {cure}")


def usage(error: Any, arguments: list[str]) -> str:
    """What the parser says, and where to read more; of a number that is none, what was given."""
    text, options = error.format_message(), getattr(getattr(error, "param", None), "opts", ())
    kind = next((words for word, words in NUMBERS.items() if word in text), None) if "Invalid value" in text else None
    for i, argument in enumerate(arguments if kind else ()):
        option, _, value = argument.partition("=")
        if option in options:
            return f"{option} {value or ' '.join(arguments[i + 1 : i + 2])}: give {kind}"
    command = error.ctx.command_path if getattr(error, "ctx", None) else "vladapt"
    return f"{text.rstrip('.')}; see `{command} --help`"


def fail(message: str, code: int, error: BaseException, arguments: list[str]) -> int:
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    if message and is_main_rank():
        print(f"vladapt: {as_message(message)}", file=sys.stderr)
    return code


def interrupted(kept: Mapping[str, str], command: str = "") -> int:
    """Tell that a signal ended the command, what it leaves where, and how to go on.

    Args:
        kept: what -> folder or file.
        command: that continues it, where it is not the same one.
    """
    if is_main_rank():
        places = ", ".join(
            f"{' and '.join(what for what, there in kept.items() if there == place)} in {place}"
            for place in dict.fromkeys(kept.values())
        )
        again = f"this continues from there: {command}" if command else "the same command continues from there"
        left = f"kept: {places}; {again}" if kept else "nothing is kept yet; the same command starts anew"
        print(f"vladapt: stopped; {left}", file=sys.stderr)
    return INTERRUPTED


def is_main_rank() -> bool:
    """Whether this process is the one that prints, by torchrun's variables."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"
