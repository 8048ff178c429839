"""Ordinary photos: pets, leaves, groceries, parts on a belt; and the sets that few-shot research reports."""

from .domain import Natural as Natural
