"""Labelled datasets: one module each, from the publisher's layout to the labels table."""
