"""Border rules and banded matrices by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdsr_arch.ops.banded import apply_to_columns, apply_to_rows, build_blocks, inside


@pytest.mark.parametrize("border", ["replicate", "symmetric", "reflect"])
@pytest.mark.parametrize("length", [1, 2, 3, 8])
def test_border_rules_are_numpys(border, length):
    only_pixel = length == 1 and border == "reflect"  # numpy's own exception
    mode = "edge" if border == "replicate" or only_pixel else border
    expected = np.pad(np.arange(length), 20, mode=mode)
    assert np.array_equal(inside(np.arange(-20, length + 20), length, border), expected)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_blocks_are_the_matrix(size):
    position, weight = np.array([[0, 0, 1], [1, 2, 3], [3, 4, 4]]), np.array([[1.0, 2, 3], [0, 4, 5], [6, 7, 8]])
    matrix = torch.tensor([[3.0, 3, 0, 0, 0], [0, 0, 4, 5, 0], [0, 0, 0, 6, 15]])
    blocks = build_blocks(position, weight, size, torch.float32, torch.device("cpu"))
    x = torch.arange(30.0).view(2, 5, 3)
    assert torch.equal(apply_to_rows(x, blocks), matrix @ x)
    assert torch.equal(apply_to_rows(x.byte(), blocks), matrix @ x)
    assert torch.equal(apply_to_columns(x.mT, blocks), x.mT @ matrix.T)
