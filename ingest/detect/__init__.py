"""Face detectors: their common interface, and one module for each."""
