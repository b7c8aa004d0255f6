"""Videos or faces plus a bundle to per-frame scores, and what analysts do with them."""
