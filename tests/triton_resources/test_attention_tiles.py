"""`attention.Tile.fits` decides by a bound on shared memory: compiled kernels take no more."""

from __future__ import annotations

import pytest
import torch

from benchmarks.triton_resources import attention, compiled, recorded
from squeezebert_fast.triton_kernels.attend import TILES, TILES_FLOAT32, Tile
from squeezebert_fast.triton_kernels.launching import Device

WIDE = [(tile, torch.bfloat16, 128, False, mask) for tile in TILES[:2] for mask in ("by key", "any")]
COMPILED = [
    *WIDE,
    (TILES_FLOAT32[0], torch.float32, 128, False, "any"),
    (TILES[0], torch.bfloat16, 64, True, "any"),
]


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(("tile", "dtype", "head", "projected", "mask"), COMPILED)
def test_what_fits_by_the_bound_fits(
    tile: Tile, dtype: torch.dtype, head: int, projected: bool, mask: str, arch: int
) -> None:
    with recorded() as launches:
        attention(tile, dtype, projected, mask, head=head).call()
    (launch,) = launches
    taken = compiled(launch, arch).metadata.shared
    assert not tile.fits(Device(132, taken - 1, arch // 10), head, dtype.itemsize)
