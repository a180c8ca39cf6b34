"""The demo: a student trained alone and with space-time distillation, compared in tables, pictures and a page."""
