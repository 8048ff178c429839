"""Methods on stored features of frames, over any tower, one file each."""
