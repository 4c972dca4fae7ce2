"""The int8 form of a model on disk: a quarter of the size, loaded without ever being float32.

`config.json` beside `model_int8.safetensors`, which holds

- for each product's weight and the word embeddings NAME: int8 of the parameter's shape, and NAME_scale, float32
  [output channels or words, blocks]: a row is cut into that many equal blocks, each int8 * scale
  (squeezebert_fast/backends/quantized.py);
- every other parameter as float32, classifiers' weights too: their few channels cost nothing. So do word embeddings
  that are tied to a product of fewer than 64 words.

NAME is the parameter's in the model, this package's or transformers'.

Its metadata say `format: squeezebert_fast int8` and `version: 1`. Activations are quantized as a forward runs, so
nothing is calibrated. `from_pretrained(..., dequantize=True)` gives an ordinary float32 model with the same
weights. transformers doesn't look for a file of this name, and so never misreads one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from squeezebert_fast.backends import quantized
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.loading.weights import StoredTensor
from squeezebert_fast.storage.files import CONFIG_NAME, all_or_nothing

INT8_NAME = "model_int8.safetensors"
METADATA = {"format": "squeezebert_fast int8", "version": "1"}
SCALE = "_scale"


def write_quantized(directory: Path, state: dict[str, Tensor], config: SqueezeBertConfig) -> None:
    """Write both files, which replace those of their names once they are whole. Raises CheckpointError."""
    with all_or_nothing(directory) as stage:
        path = stage(INT8_NAME)
        mode = path.stat().st_mode
        save_file(state, path, metadata=METADATA)
        path.chmod(mode)  # safetensors leaves it readable by the owner alone
        stage(CONFIG_NAME).write_text(config.to_json_string(), encoding="utf-8")


def read_quantized(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file of `save_quantized`, int8 ones with their scales. Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if {key: metadata.get(key) for key in METADATA} != METADATA:
                raise CheckpointError(f"{path} has the metadata {metadata}, expected {METADATA}")
            keys = list(file.keys())
            return {key: StoredTensor(file.get_tensor(key), path, key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def dequantized(stored: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors of `read_quantized`, all float32: what the int8 weights stand for.

    Raises CheckpointError where a scale is missing or of another shape.
    """
    floats: dict[str, StoredTensor] = {}
    for name, entry in stored.items():
        if name.endswith(SCALE) and name.removesuffix(SCALE) in stored:
            continue
        values = entry.tensor
        if values.dtype is torch.int8:
            scale = stored.get(name + SCALE)
            if scale is None or not _fits(scale.tensor, values):
                raise CheckpointError(f"{entry.file}: {name + SCALE} is missing or of another shape or dtype")
            values = quantized.dequantize(values, scale.tensor)
        floats[name] = entry._replace(tensor=values)
    return floats


def _fits(scale: Tensor, values: Tensor) -> bool:
    """Whether each row of `values` can be cut into as many equal blocks as `scale` has for it."""
    return (
        scale.dtype is torch.float32
        and scale.dim() == 2
        and scale.shape[:1] == values.shape[:1]
        and scale.numel() > 0
        and values.numel() % scale.numel() == 0
    )
