"""What analysts ask of a lake: SQL, answers, status."""
