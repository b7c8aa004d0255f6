"""Queries over a lake: SQL, status, plots."""
