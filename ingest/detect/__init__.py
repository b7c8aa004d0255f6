"""Face detectors: one protocol, and a module for each."""
