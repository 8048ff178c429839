"""Published sets by which backbones are compared: kinds of sets, one per file in `sets/`, and published results."""
