"""Files of labels, which `fit --data` and other programs read."""
