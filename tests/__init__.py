"""Tests: one folder for each package of kdsr_arch."""
