"""CT of the chest, DICOM or NIfTI, in the lung window: axial slices of the middle two thirds, every third one."""

domain = "medical"
data = {"modality": "radiology", "window": "lung", "axis": "axial", "every": 3, "central": 0.67}
templates = [
    "a computed tomography slice of {}.",
    "a chest CT showing {}.",
    "axial CT, lung window, {}.",
]
adapter = {"name": "tip-adapter"}
shots = 16
