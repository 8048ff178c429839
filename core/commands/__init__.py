"""The commands, one file per group; `cli.py` registers them. Nothing heavy is imported before a command needs it."""
