"""Chest radiographs with one or several findings per image: the cache is fine-tuned."""

domain = "medical"
data = {"modality": "radiology"}
templates = [
    "a chest x-ray of {}.",
    "a chest radiograph showing {}.",
    "frontal chest x-ray, findings consistent with {}.",
    "there is {} in the lungs.",
]
adapter = {"name": "tip-adapter-f"}
shots = 16
