"""`vladapt`, `python -m vladapt`, and `torchrun ... -m vladapt`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while Python still reads its code ends in one line, too."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        from .core.errors import interrupted

        sys.exit(interrupted({}))
    run()


if __name__ == "__main__":
    main()
