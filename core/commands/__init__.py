"""The commands, one file a group; `cli.py` registers them. Nothing heavy is imported before a command needs it."""
