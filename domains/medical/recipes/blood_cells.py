"""Single cells of stained blood smears: APE, which chooses the few channels that tell them apart."""

domain = "medical"
data = {"modality": "haematology"}
adapter = {"name": "ape"}
shots = 16
