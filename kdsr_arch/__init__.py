"""KDSR: knowledge distillation in image and video super-resolution, built on BasicSR."""

__version__ = "0.1.0"
