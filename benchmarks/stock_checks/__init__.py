"""Whether the packaged configs of mmdet and mmsegmentation work here: built, trained for a step, asked once."""
