"""Networks: encoders and heads by kind (`registry`), and a whole bundle at work (`scoring`)."""
