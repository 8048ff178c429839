"""`python -m vladapt`, and `torchrun ... -m vladapt`."""

from .cli import main

if __name__ == "__main__":
    main()
