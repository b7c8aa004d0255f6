"""Class names and their orders. Parts of mien exchange class names, never numbers."""

from __future__ import annotations

# The order of Aff-Wild2's expression files (ABAW 3 to 8), of our heads and of the `expr_*` columns.
EXPRESSIONS = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise", "other")

# Classes that only other datasets have: contempt in AffectNet, FER+ and MAFW, the other three in MAFW.
FURTHER_EXPRESSIONS = ("contempt", "anxiety", "helplessness", "disappointment")

ALL_EXPRESSIONS = (*EXPRESSIONS, *FURTHER_EXPRESSIONS)

# The order of Aff-Wild2's action unit files, of our heads and of the `auNN` columns.
ACTION_UNITS = ("au01", "au02", "au04", "au06", "au07", "au10", "au12", "au15", "au23", "au24", "au25", "au26")

VALENCE_AROUSAL = ("valence", "arousal")

EXPRESSION_COLUMNS = tuple(f"expr_{name}" for name in EXPRESSIONS)
FURTHER_EXPRESSION_COLUMNS = tuple(f"expr_{name}" for name in FURTHER_EXPRESSIONS)
