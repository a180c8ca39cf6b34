"""Frames to training samples: sources (files or LMDB), degradation, data sets of clips and images, the loader.

A :class:`~kdsr_arch.data.sources.FrameSource` gives uint8 RGB frames by key. A data set turns frames into tensors
with ``sample(index, rng)``. :mod:`~kdsr_arch.data.loader` decides, from the seed alone, which index and which
random numbers belong to each place of each batch.
"""
