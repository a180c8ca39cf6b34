"""Networks: one per file, each registered with BasicSR's ARCH_REGISTRY.

``traits.py`` says how a network wants to be called, ``runner.py`` calls it that way, so that nothing else in the
project treats any network specially.
"""

from kdsr_arch import compat  # noqa: F401  (makes basicsr importable for every file of this package)
