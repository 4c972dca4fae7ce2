"""Types of the native module, csrc/python/bindings.cpp. Addresses are `tensor.data_ptr()`; strides count elements."""

from enum import Enum

class Activation(Enum):
    none = ...
    gelu = ...
    gelu_tanh = ...
    relu = ...
    silu = ...

class PackedGroupedPointwiseConv:
    instruction_set: str
    in_channels: int
    out_channels: int
    groups: int
    bytes: int
    def __init__(
        self,
        instruction_set: str,
        weight: int,
        groups: int,
        out_per_group: int,
        in_per_group: int,
        threads: int,
    ) -> None: ...
    def matches(self, weight: int) -> bool: ...
    def run(
        self,
        x: int,
        x_row_stride: int,
        tokens: int,
        bias: int,
        y: int,
        y_row_stride: int,
        activation: Activation,
        threads: int,
    ) -> None: ...

def cpu_features() -> list[str]: ...
def instruction_sets() -> list[str]: ...
def thread_runtime() -> str: ...
def multiply_add_rate(instruction_set: str, threads: int, seconds: float) -> float: ...
