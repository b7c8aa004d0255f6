"""The decoders, found by name. A new one is a module of the child program with a function `give`, and a line here.

`give(source, frames, easel, ring, request)` puts the wanted frames of a video into the ring. PyAV opens every video and
decides which frames it has; it takes over if another decoder fails.
"""

from __future__ import annotations

DECODERS = {
    "pyav": "ingest.decode.child.by_pyav",
    "decord": "ingest.decode.child.by_decord",
}
"""Name of a decoder -> module."""
