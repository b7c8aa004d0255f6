"""Video to faces: listing, sandboxed decoding, detection, tracking, alignment and the faces table."""
