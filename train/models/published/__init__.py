"""Imports weights that others published as bundles: one module per publisher."""
