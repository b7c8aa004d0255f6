"""Labelled clips made here: portraits moved by action units."""
