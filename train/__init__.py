"""Faces and labels to model bundles: pretraining, fine-tuning, temporal models and evaluation."""
