"""What a clinic takes in: DICOM objects that stand beside their sources, NIfTI masks, a worklist."""
