"""Scenes with several labels each (a table like that of BigEarthNet): a logistic regression per label, 16 images of
each."""

domain = "remote-sensing"
adapter = {"name": "linear-probe"}
shots = 16
