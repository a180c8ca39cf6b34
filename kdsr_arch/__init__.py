"""KDSR: knowledge distillation in image and video super-resolution, built on BasicSR."""

from kdsr_arch.io import limit_opencv

__version__ = "0.1.0"

limit_opencv()  # here, because OpenCV reads its limits when it is first imported
