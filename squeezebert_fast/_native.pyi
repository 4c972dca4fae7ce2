"""Types of the native module, csrc/python/bindings.cpp. Addresses are `tensor.data_ptr()`; strides count elements."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

class Activation(Enum):
    none = ...
    gelu = ...
    gelu_tanh = ...
    relu = ...
    silu = ...

class Precision(Enum):
    float32 = ...
    bfloat16 = ...
    int8 = ...
    float32_highest = ...
    float32_high = ...
    float32_medium = ...

class Watch:
    def __init__(
        self,
        modules: list[Any],
        dicts: list[dict[str, Any]],
        values: list[Any],
        without: list[dict[str, Any]],
        name: str,
        attributes: list[tuple[dict[str, Any], str, Any]],
        classes: list[type],
    ) -> None: ...
    def unchanged(self) -> bool: ...

class TensorWatch:
    def __init__(
        self,
        tensors: list[Any],
        impls: Sequence[int],
        storages: Sequence[int],
        place: Callable[[Any], int],
        version: Callable[[Any], int],
    ) -> None: ...
    def unchanged(self) -> bool: ...

class Fingerprint:
    rows_for_all: int
    def __init__(self, tensors: Sequence[tuple[int, int, int]], samples: int, threads: int) -> None: ...
    def match(self, rows: int, threads: int) -> bool: ...
    def spans_match(self, indices: int, count: int) -> bool: ...

class PackedGroupedPointwiseConv:
    instruction_set: str
    precision: Precision
    in_channels: int
    out_channels: int
    groups: int
    bytes: int
    def __init__(
        self,
        instruction_set: str,
        precision: Precision,
        conv: tuple[int, ...],
        threads: int,
        transposed: bool = False,
    ) -> None: ...
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
    @staticmethod
    def run_side_by_side(
        convs: Sequence[PackedGroupedPointwiseConv],
        x: int,
        tokens: int,
        biases: Sequence[int],
        ys: Sequence[int],
        threads: int,
    ) -> None: ...
    @staticmethod
    def run_sum(
        convs: Sequence[PackedGroupedPointwiseConv], xs: Sequence[int], tokens: int, y: int, threads: int
    ) -> None: ...

class PackedGroupedMlp:
    bytes: int
    def __init__(
        self, instruction_set: str, weights: Sequence[int], sizes: Sequence[int], threads: int
    ) -> None: ...
    def run(
        self, x: int, rows: int, biases: Sequence[int], y: int, activation: Activation, threads: int
    ) -> None: ...

class Encoder:
    instruction_set: str
    precision: Precision
    bytes: int
    long_sequence: int
    def __init__(self, instruction_set: str, precision: Precision) -> None: ...
    def add_layer(
        self,
        heads: int,
        activation: Activation,
        convs: Sequence[tuple[int, ...]],
        norms: Sequence[tuple[int, int, float]],
    ) -> None: ...
    def pack(self, threads: int) -> None: ...
    def run(
        self,
        x: int,
        batch: int,
        tokens: int,
        sequence_stride: int,
        row_stride: int,
        mask: int,
        mask_strides: Sequence[int],
        unpad: bool,
        y: int,
        states: Sequence[int],
        threads: int,
    ) -> None: ...
    def profile(
        self,
        x: int,
        batch: int,
        tokens: int,
        sequence_stride: int,
        row_stride: int,
        y: int,
        threads: int,
    ) -> tuple[float, float, float]: ...

def embeddings(
    instruction_set: str,
    tables: Sequence[tuple[int, bool, int, int, int]],
    ids: Sequence[int],
    norm: tuple[int, int, float],
    rows: int,
    tokens: int,
    channels: int,
    y: int,
    threads: int,
) -> bool: ...
def cpu_features() -> list[str]: ...
def amx_refusal() -> str: ...
def instruction_sets() -> list[str]: ...
def has_instruction(instruction_set: str, precision: Precision) -> bool: ...
def scores_precision(instruction_set: str, precision: Precision) -> Precision: ...
def products_by_parts(instruction_set: str, precision: Precision) -> int: ...
def thread_runtime() -> str: ...
def tile_rate(instruction_set: str, precision: Precision, threads: int, seconds: float) -> float: ...
def multiply_add_rate(instruction_set: str, precision: Precision, threads: int, seconds: float) -> float: ...
