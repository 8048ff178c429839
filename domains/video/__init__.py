"""Video clips: actions are recognised, videos and moments found by sentences."""

from .domain import Video as Video
