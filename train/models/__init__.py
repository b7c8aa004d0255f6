"""Networks: encoders and heads by kind (`registry`), and the use of a whole bundle (`scoring`)."""
