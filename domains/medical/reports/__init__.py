"""Radiology reports: their sections, and the findings that their sentences state, deny or leave open."""
