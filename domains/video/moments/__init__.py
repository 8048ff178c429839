"""A time in a long video for a sentence: windows over its frames, scored, thinned out and judged."""
