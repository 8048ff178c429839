"""Runs that are handed on: folders in the layout of the Hugging Face hub, and MLflow."""
