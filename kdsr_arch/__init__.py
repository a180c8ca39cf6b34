"""KDSR: knowledge distillation in image and video super-resolution, built on BasicSR."""

import os

from kdsr_arch.compat import install
from kdsr_arch.io import MAX_PIXELS

__version__ = "0.1.0"

install()  # from here on, basicsr can be imported from anywhere
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it when it is first imported
