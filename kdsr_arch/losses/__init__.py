"""Distillation losses, one to a file, registered in the loss registry of BasicSR."""
