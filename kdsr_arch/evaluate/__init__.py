"""Scoring restored frames against the ground truth."""
