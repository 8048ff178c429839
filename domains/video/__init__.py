"""Clips: actions recognised, videos found by sentences; frames are the parts of a sample."""

from .domain import Video as Video
