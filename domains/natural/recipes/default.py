"""Tip-Adapter on 16 labelled images per class: nothing is trained, seconds on a CPU."""

domain = "natural"
adapter = {"name": "tip-adapter"}
shots = 16
