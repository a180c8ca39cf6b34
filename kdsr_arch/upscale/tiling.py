"""Which tile size to use: the user's, or what the free memory allows, decided anew for each frame size."""

from __future__ import annotations

from kdsr_arch.errors import UserError
from kdsr_arch.upscale.chunks import Restorer
from kdsr_arch.upscale.memory import choose_tile


class TileChoice:
    """Sets a restorer's tile.

    Args:
        wanted: 'auto', or the side in LR pixels; 0 for whole frames.
    """

    def __init__(self, wanted: str = "auto") -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._fixed: int | None = None
        if wanted != "auto":
            if not wanted.isdigit() or 0 < int(wanted) < 8:
                raise UserError(f"--tile {wanted}: expected 'auto', 0 (whole frames) or a side of at least 8 LR pixels")
            self._fixed = int(wanted)

    def fit(self, restorer: Restorer, height: int, width: int) -> None:
        """Choose the tile for frames of this LR size.

        Raises:
            UserError: too little memory for one tile.
        """
        if self._fixed is not None:
            restorer.tile = self._fixed
            return
        size = (height, width)
        if size not in self._known:
            self._known[size] = choose_tile(restorer, height, width)
        restorer.tile = self._known[size]
