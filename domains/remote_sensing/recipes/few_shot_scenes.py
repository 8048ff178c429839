"""Scenes with four labels per class: a cache over the text classifier, which needs no training."""

domain = "remote-sensing"
adapter = {"name": "tip-adapter"}
shots = 4
