"""`device_map`: one device for a whole model, or a map that accelerate spreads it by."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from squeezebert_fast.errors import ArgumentError, one_of
from squeezebert_fast.loading.stored_model import StoredModel

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")


def single_device(device_map: Any) -> torch.device | str | None:
    """The device of a `device_map` that names one for everything; None for a map that spreads a model."""
    if isinstance(device_map, dict):
        device_map = device_map[""] if device_map.keys() == {""} else None
    if device_map is None or device_map in (*SPREADS, "disk"):
        return None
    if isinstance(device_map, bool) or not isinstance(device_map, (str, int, torch.device)):
        raise ArgumentError(
            f"device_map is {device_map!r}, expected a device, a mapping to devices, or {one_of(SPREADS)}"
        )
    return torch.device("cuda", device_map) if isinstance(device_map, int) else device_map


def spread(
    model: StoredModel,
    device_map: str | dict[str, Any],
    max_memory: dict[Any, Any] | None,
    offload_folder: str | os.PathLike[str] | None,
    offload_buffers: bool,
) -> None:
    """Dispatch `model` with accelerate. Raises ArgumentError without it, or where the map doesn't fit."""
    try:
        import accelerate
        from accelerate.utils import get_balanced_memory
    except ImportError as error:
        raise ArgumentError(
            f"device_map is {device_map!r}, which takes accelerate; pip install accelerate"
        ) from error
    whole = model._no_split_modules
    try:
        if device_map == "disk" or device_map == {"": "disk"}:
            accelerate.disk_offload(model, offload_folder)
            model.hf_device_map = {"": "disk"}
            return
        if isinstance(device_map, str):
            if device_map != "sequential":
                max_memory = get_balanced_memory(
                    model,
                    max_memory,
                    no_split_module_classes=whole,
                    low_zero=device_map == "balanced_low_0",
                )
            device_map = accelerate.infer_auto_device_map(model, max_memory, no_split_module_classes=whole)
        accelerate.dispatch_model(
            model, device_map, offload_dir=offload_folder, offload_buffers=offload_buffers
        )
    except (ValueError, IndexError, TypeError) as error:  # it lets tied weights fail as they may
        reason = " ".join(str(error).split())
        raise ArgumentError(f"device_map is {device_map!r}, which accelerate refuses: {reason}") from error


def state_of(model: StoredModel) -> Mapping[str, Tensor]:
    """The model's `state_dict`, with the weights that accelerate has offloaded."""
    offloaded = any(hasattr(module, "_hf_hook") for module in model.modules() if module is not model)
    if not offloaded or not any(parameter.is_meta for parameter in model.parameters()):
        return model.state_dict(keep_vars=True)
    from accelerate.utils.modeling import get_state_dict_offloaded_model

    return get_state_dict_offloaded_model(model)
