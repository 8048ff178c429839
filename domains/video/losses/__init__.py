"""Objectives on pairs of a clip and its text, one file each; where losses say image, a clip is meant."""
