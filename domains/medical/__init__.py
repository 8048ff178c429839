"""Medical images: radiology, histology, dermatology, ophthalmology, haematology, microscopy."""

from .domain import Medical as Medical
