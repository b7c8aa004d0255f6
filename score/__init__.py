"""From videos or faces and a bundle to scores per frame; and queries over a lake."""
