"""Benches: rows x seeds x budgets of trainings, with paired statistics."""
