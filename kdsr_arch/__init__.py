"""KDSR: knowledge distillation in image and video super-resolution, built on BasicSR."""

from kdsr_arch.compat import install
from kdsr_arch.io import limit_opencv

__version__ = "0.1.0"

install()  # from here on, basicsr can be imported from anywhere
limit_opencv()  # here, because OpenCV reads its limits when it is first imported
