"""Scenes of several labels each (a table as BigEarthNet has): a logistic regression per label, 16 images of each."""

domain = "remote-sensing"
adapter = {"name": "linear-probe"}
shots = 16
