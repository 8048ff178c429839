"""Heads of mmdet and mmsegmentation whose classes are texts."""
