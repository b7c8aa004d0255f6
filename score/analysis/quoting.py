"""Texts as string literals of SQL."""

from __future__ import annotations


def quoted(text: str) -> str:
    """The text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
