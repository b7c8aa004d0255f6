"""Where faces come from: videos, or the faces that a lake holds."""
