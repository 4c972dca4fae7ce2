"""New numbers of rows for an embedding's or a linear layer's parameters, as a new size of vocabulary needs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def resize_rows(
    module: nn.Embedding | nn.Linear, size: int, mean_resizing: bool, standard_deviation: float
) -> None:
    """Give `module` new parameters with `size` rows, the old ones first, unless it has as many.

    mean_resizing: added rows are near the mean of the old ones; otherwise from N(0, standard_deviation), a bias's 0.
    """
    old = {name: p for name, p in module.named_parameters(recurse=False) if p.shape[0] != size}
    for name, parameter in old.items():
        kept = parameter[:size]
        added = parameter.new_zeros(max(size - len(kept), 0), *parameter.shape[1:])
        if mean_resizing:
            added.copy_(_rows_near_the_mean(parameter, len(added)))
        elif name == "weight":
            added.normal_(0.0, standard_deviation)
        resized = nn.Parameter(torch.cat([kept, added]), requires_grad=parameter.requires_grad)
        setattr(module, name, resized)


def _rows_near_the_mean(old: Tensor, count: int) -> Tensor:
    """`count` normally distributed rows with the mean and 1e-9 times the covariance of `old`'s rows."""
    rows = old.float().reshape(len(old), -1)
    mean = rows.mean(0)
    centred = (rows - mean) / len(rows) ** 0.5
    # A matrix R with R^T R = covariance, also where the covariance is singular.
    root = torch.linalg.qr(centred, mode="r").R
    noise = torch.randn(count, len(root), device=old.device) @ root
    return (mean + 1e-9**0.5 * noise).reshape(count, *old.shape[1:])
