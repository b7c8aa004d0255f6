"""From faces and labels to model bundles: pretraining, fine-tuning, heads and evaluation."""
