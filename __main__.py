"""`vladapt`, `python -m vladapt`, and `torchrun ... -m vladapt`."""

import signal
import sys


def main() -> None:
    """Run the command line. Ctrl-C while Python still reads its code ends in one line, too; once the command is over,
    it stops nothing: libraries that are interrupted while they clean up fail, or abort the process."""
    try:
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        from .core.errors import interrupted

        sys.exit(interrupted({}))
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()
