"""BasicSR model types: the training step around a distillation task."""

from kdsr_arch import compat  # noqa: F401  (before anything of basicsr)
