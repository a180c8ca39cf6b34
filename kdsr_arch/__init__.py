"""KDSR: knowledge distillation in image and video super-resolution, built on BasicSR."""

import os

from kdsr_arch.compat import install

__version__ = "0.1.0"

MAX_PIXELS = 178_956_970
"""Pixels of one image or video frame: 13,377 x 13,377. Pillow refuses images beyond this by itself."""

install()  # from here on, basicsr can be imported from anywhere
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it when it is first imported
