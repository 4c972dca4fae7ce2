"""Types of the native module, csrc/python/. Addresses are `tensor.data_ptr()`, 0 for none; strides count elements."""

from collections.abc import Sequence
from typing import ClassVar

_Conv = tuple[int, int, int, int, int, int, int, int]
"""Addresses of weight, quantized weight, scale and bias; groups, input and output channels, scales of a row."""
_Norm = tuple[int, int, float]
"""Addresses of weight and bias; eps."""
_Dropout = tuple[float, int]
"""Probability and seed."""

class Activation:
    none: ClassVar[Activation]
    gelu: ClassVar[Activation]
    gelu_tanh: ClassVar[Activation]
    relu: ClassVar[Activation]
    silu: ClassVar[Activation]
    tanh: ClassVar[Activation]
    __members__: ClassVar[dict[str, Activation]]
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Element:
    float32: ClassVar[Element]
    bfloat16: ClassVar[Element]
    __members__: ClassVar[dict[str, Element]]
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Precision:
    float32: ClassVar[Precision]
    bfloat16: ClassVar[Precision]
    int8: ClassVar[Precision]
    float32_highest: ClassVar[Precision]
    float32_high: ClassVar[Precision]
    float32_medium: ClassVar[Precision]
    __members__: ClassVar[dict[str, Precision]]
    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...

class Watch:
    def __init__(
        self,
        modules: list,
        dicts: list,
        values: list,
        without: list,
        name: str,
        attributes: list,
        classes: list,
    ) -> None: ...
    def unchanged(self) -> bool: ...

class TensorWatch:
    def __init__(
        self, tensors: list, impls: Sequence[int], storages: Sequence[int], place: object, version: object
    ) -> None: ...
    def unchanged(self) -> bool: ...

class Fingerprint:
    rows_for_all: ClassVar[int]
    def __init__(self, tensors: Sequence[tuple[int, int, int]], samples: int, threads: int) -> None: ...
    def match(self, rows: int, threads: int) -> bool: ...
    def spans_match(self, indices: int, count: int) -> bool: ...

class PackedGroupedPointwiseConv:
    @property
    def instruction_set(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def groups(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def __init__(
        self,
        instruction_set: str,
        precision: Precision,
        conv: _Conv,
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
        element: Element,
    ) -> None: ...
    @staticmethod
    def run_side_by_side(
        convs: Sequence[PackedGroupedPointwiseConv],
        x: int,
        tokens: int,
        biases: Sequence[int],
        ys: Sequence[int],
        threads: int,
        element: Element,
    ) -> None: ...
    @staticmethod
    def run_sum(
        convs: Sequence[PackedGroupedPointwiseConv],
        xs: Sequence[int],
        tokens: int,
        y: int,
        threads: int,
        element: Element,
    ) -> None: ...

class PackedGroupedMlp:
    @property
    def bytes(self) -> int: ...
    def __init__(
        self,
        instruction_set: str,
        precision: Precision,
        weights: Sequence[int],
        sizes: Sequence[int],
        threads: int,
    ) -> None: ...
    def run(
        self,
        x: int,
        rows: int,
        biases: Sequence[int],
        y: int,
        activation: Activation,
        threads: int,
        element: Element,
    ) -> None: ...

class Encoder:
    long_sequence: ClassVar[int]
    @property
    def instruction_set(self) -> str: ...
    @property
    def precision(self) -> Precision: ...
    @property
    def bytes(self) -> int: ...
    def __init__(self, instruction_set: str, precision: Precision) -> None: ...
    def add_layer(
        self, heads: int, activation: Activation, convs: Sequence[_Conv], norms: Sequence[_Norm]
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
    ) -> list[float]: ...

def embeddings(
    instruction_set: str,
    tables: Sequence[tuple[int, bool, int, int, int]],
    ids: Sequence[int],
    norm: _Norm,
    rows: int,
    tokens: int,
    channels: int,
    y: int,
    threads: int,
) -> bool: ...
def activate(instruction_set: str, activation: Activation, x: int, count: int, threads: int) -> None: ...
def layer_norm(instruction_set: str, norm: _Norm, x: int, rows: int, channels: int, threads: int) -> None: ...
def mean_pool(x: int, mask: int, shape: Sequence[int], y: int, threads: int) -> None: ...
def to_unit_length(x: int, rows: int, channels: int) -> None: ...
def attention_forward(
    instruction_set: str,
    precision: Precision,
    sizes: Sequence[int],
    qkv: Sequence[int],
    mask: int,
    mask_strides: Sequence[int],
    dropout: _Dropout,
    statistics: int,
    context: int,
    threads: int,
    element: Element,
) -> None: ...
def attention_backward(
    instruction_set: str,
    precision: Precision,
    sizes: Sequence[int],
    qkv: Sequence[int],
    mask: int,
    mask_strides: Sequence[int],
    dropout: _Dropout,
    statistics: int,
    grad: int,
    gradients: Sequence[int],
    threads: int,
    element: Element,
) -> None: ...
def add_layer_norm_forward(
    instruction_set: str,
    rows: int,
    channels: int,
    x: int,
    residual: int,
    weight: int,
    bias: int,
    eps: float,
    dropout: _Dropout,
    total: int,
    y: int,
    moments: Sequence[int],
    threads: int,
    element: Element,
) -> None: ...
def add_layer_norm_backward(
    instruction_set: str,
    rows: int,
    channels: int,
    grad: int,
    total: int,
    moments: Sequence[int],
    weight: int,
    dropout: _Dropout,
    gradients: Sequence[int],
    threads: int,
    element: Element,
) -> None: ...
def dropout(
    instruction_set: str,
    rows: int,
    channels: int,
    x: int,
    dropout: _Dropout,
    y: int,
    threads: int,
    element: Element,
) -> None: ...
def weight_gradient(
    instruction_set: str,
    precision: Precision,
    grads: Sequence[int],
    x: int,
    sizes: Sequence[int],
    weights: Sequence[int],
    biases: Sequence[int],
    threads: int,
    element: Element,
) -> None: ...
def grouped_mlp_backward(
    instruction_set: str,
    precision: Precision,
    sizes: Sequence[int],
    activation: Activation,
    x_and_grad: Sequence[int],
    weights: Sequence[int],
    gradients: Sequence[int],
    threads: int,
    element: Element,
) -> None: ...
def activation_backward(
    instruction_set: str, activation: Activation, z: int, grad: int, count: int, threads: int
) -> None: ...
def cpu_features() -> list[str]: ...
def amx_refusal() -> str: ...
def instruction_sets() -> list[str]: ...
def has_instruction(instruction_set: str, precision: Precision) -> bool: ...
def has_gradients(instruction_set: str, precision: Precision) -> bool: ...
def scores_precision(instruction_set: str, precision: Precision) -> Precision: ...
def products_by_parts(instruction_set: str, precision: Precision) -> int: ...
def thread_runtime() -> str: ...
def tile_rate(instruction_set: str, precision: Precision, threads: int, seconds: float) -> float: ...
def multiply_add_rate(instruction_set: str, precision: Precision, threads: int, seconds: float) -> float: ...
