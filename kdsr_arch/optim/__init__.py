"""Optimizers, learning-rate schedules, weight averages: what turns gradients into weights."""
