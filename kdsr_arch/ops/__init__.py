"""Functions of tensors and frames: resizing, warping, colour, degradation, deformable convolution, counting."""
