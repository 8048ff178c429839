"""One stage on several engines, for `engines.py`: each file is a program that takes a folder and an address."""
