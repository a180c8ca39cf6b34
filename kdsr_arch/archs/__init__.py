"""Networks: one per file, each registered with BasicSR's ARCH_REGISTRY.

Each declares its `Traits` (:mod:`kdsr_arch.infer`), by which everything else calls it, so that nothing else in the
project treats any network specially.
"""
