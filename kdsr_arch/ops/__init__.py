"""Functions of tensors and frames: resizing, warping, color, degradation, deformable convolution, counting."""
