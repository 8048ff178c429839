"""Kinds of output of every task: files of rows."""
