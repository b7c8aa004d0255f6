"""Weights that others published, as bundles: a module for each of the places that they come from."""
