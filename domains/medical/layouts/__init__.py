"""Radiographs as their publishers lay them out: a set per file, or several that differ in little."""
