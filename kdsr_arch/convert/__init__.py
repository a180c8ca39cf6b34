"""Weights of public origin turned into this project's ``{'params': ...}`` files."""
