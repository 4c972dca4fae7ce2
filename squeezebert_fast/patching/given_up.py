"""What stands in a module for a parameter that `patch(..., keep_original=False)` has given up."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from squeezebert_fast.errors import UnsupportedError

CPU = torch.device("cpu")


class GivenUp(nn.Parameter):
    """A parameter's name, shape and dtype on the meta device; its values are packed elsewhere.

    A plain meta tensor in a product with real ones gives whatever stood in memory, and copying to it does nothing.
    Here whatever would read or write values raises UnsupportedError. `device` is the packed form's, so that
    `inputs.to(model.device)` and `model.to("cpu")`, which pipelines and Trainer call, go on to work.
    """

    device = CPU

    def share_memory_(self) -> GivenUp:
        """Nothing: forked processes share the packed form as it is."""
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose():  # in inference mode what is made of other operations comes as a whole
            return func.decompose(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default and _is_as_it_should_be(args[0], **kwargs):
            return args[0]
        raise UnsupportedError(
            f"{func.overloadpacket.__name__} needs a weight that the model gave up (keep_original=False): load it again"
        )

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({list(self.shape)}, {self.dtype})"


def _is_as_it_should_be(
    tensor: GivenUp, dtype: torch.dtype | None = None, device: torch.device | None = None, **_: Any
) -> bool:
    return dtype in (None, tensor.dtype) and device in (None, CPU)
