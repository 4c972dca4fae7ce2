"""From a checkpoint's tensors to a model: match the names, check everything, and only then fill a model."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError, CheckpointError, one_of
from squeezebert_fast.loading.stored_model import PREFIX, Model, StoredModel
from squeezebert_fast.loading.weights import StoredTensor

logger = logging.getLogger("squeezebert_fast.loading")
Module = TypeVar("Module", bound=nn.Module)

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# What no model can do without. The pooler counts as a head: a converted BERT may lack it.
BODY = ("embeddings", "encoder")
TENSORFLOW_LAYER_NORM = re.compile(r"(?<=[Ll]ayer[Nn]orm\.)(gamma|beta)$")
TENSORFLOW_NAMES = {"gamma": "weight", "beta": "bias"}
LISTED = 3  # culprits that an error names, of however many there are


def build_model(
    cls: type[Model],
    config: SqueezeBertConfig,
    stored: Mapping[str, StoredTensor],
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    ignore_mismatched_sizes: bool = False,
) -> tuple[Model, LoadingInfo]:
    """A `cls` in eval mode with the tensors of a checkpoint, copied: the files may change afterwards.

    stored: by the checkpoint's own keys, with or without the prefix `transformer.`.
    dtype: of every parameter; None is float32 whatever the file holds, "auto" the widest dtype in the file.
    ignore_mismatched_sizes: initialise a head whose shape differs as one that is missing, rather than raise.

    Returns the model, and what didn't match. A head that the checkpoint lacks is initialised, with one warning
    that names it. Raises CheckpointError if a tensor of the encoder is missing or unknown, or any has another
    shape than the model's, naming key, file and both shapes; ArgumentError for a dtype or device that doesn't
    exist.
    """
    model = skeleton(cls, config)
    found = _by_model_name(stored, model)
    expected = dict(model.named_parameters(remove_duplicate=False))
    _check_kinds(entry for name, entry in found.items() if name in expected)
    if _contradicts_tying(model, found):
        logger.warning(
            "tied weights differ in the checkpoint, so they are not tied: tie_word_embeddings is now False"
        )
        config.tie_word_embeddings = False
        model = skeleton(cls, config)
    _supply_tied(found, cls._tied_weights_keys)
    _report_unused(found.keys() - expected.keys(), found, config)
    mismatched = _check_shapes(found, expected, ignore_mismatched_sizes)
    missing = [name for name in expected if name not in found or name in mismatched]
    _check_missing(missing, found)

    used = {name: found[name] for name in expected if name in found and name not in mismatched}

    parameter_dtype = _choose_dtype(dtype, used.values())
    config.dtype = str(parameter_dtype).removeprefix("torch.")
    _allocate(model, parameter_dtype, usable_device(device))
    _initialise(model, missing)
    _copy(model, used)
    info = LoadingInfo(
        missing_keys=[name for name in missing if name not in mismatched],
        unexpected_keys=[found[name].key for name in sorted(found.keys() - expected.keys())],
        mismatched_keys=[
            (found[name].key, tuple(found[name].tensor.shape), tuple(expected[name].shape))
            for name in sorted(mismatched)
        ],
    )
    return model.eval(), info


@dataclass
class LoadingInfo:
    """What of a checkpoint and a model didn't match, as transformers reports it.

    missing_keys: the model's parameters that were initialised. unexpected_keys: the checkpoint's tensors that were
    not used. mismatched_keys: key, the checkpoint's shape and the model's. error_msgs: none, errors are raised.
    """

    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    error_msgs: list[str] = field(default_factory=list)


class _Shapes(TorchFunctionMode):
    """Makes parameters of shapes alone, and skips `normal_`, which for these imports the compiler, for 2 s.

    What is computed, such as a buffer of positions, has its values: that is not made by `torch.empty`.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            kwargs = {**kwargs, "device": "meta"}
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def skeleton(cls: Callable[[Any], Module], config: Any) -> Module:
    """A model whose parameters are shapes only, which take no memory."""
    with _Shapes():
        return cls(config)


def _by_model_name(stored: Mapping[str, StoredTensor], model: StoredModel) -> dict[str, StoredTensor]:
    """The checkpoint's tensors under the names that `model` has for them."""
    body = {name for name, _ in model.base_model.named_children()}
    prefix = "" if model.base_model is model else PREFIX
    found: dict[str, StoredTensor] = {}
    for key, entry in stored.items():
        name = key.removeprefix(PREFIX)
        name = TENSORFLOW_LAYER_NORM.sub(lambda match: TENSORFLOW_NAMES[match.group()], name)
        if name.partition(".")[0] in body:
            name = prefix + name
        if name.endswith("embeddings.position_ids"):  # a constant, which old files hold as a buffer
            continue
        if name in found:
            raise CheckpointError(f"{found[name].place} and {entry.place} are both the model's {name}")
        found[name] = entry
    return found


def _contradicts_tying(model: StoredModel, found: Mapping[str, StoredTensor]) -> bool:
    """Whether the file has two different tensors for one parameter: transformers 5 then trusts the file."""
    if not model.config.tie_word_embeddings:
        return False
    pairs = [
        (found[name].tensor, found[source].tensor)
        for name, source in model._tied_weights_keys.items()
        if name in found and source in found
    ]
    return any(a.shape == b.shape and not torch.equal(a, b.to(a.dtype)) for a, b in pairs)


def _supply_tied(found: dict[str, StoredTensor], ties: Mapping[str, str]) -> None:
    """A file of a model with tied weights holds one of the two names: give the other the same tensor."""
    for name, source in ties.items():
        if name in found:
            found.setdefault(source, found[name])
        elif source in found:
            found[name] = found[source]


def _report_unused(
    names: Iterable[str], found: Mapping[str, StoredTensor], config: SqueezeBertConfig
) -> None:
    heads, layers, unknown = [], [], []
    for name in sorted(names):
        bare = name.removeprefix(PREFIX)
        layer = re.match(r"encoder\.layers\.(\d+)\.", bare)
        if layer and int(layer.group(1)) >= config.num_hidden_layers:
            layers.append(name)
        elif bare.partition(".")[0] in (*BODY, "pooler"):
            unknown.append(found[name].place)
        else:
            heads.append(name)
    if unknown:
        raise CheckpointError(
            f"the checkpoint is of another architecture, with no place for {_listed(unknown)}"
        )
    if layers:
        number = config.num_hidden_layers
        logger.warning("num_hidden_layers is %d, so the checkpoint's further layers are not used", number)
    if heads:
        logger.info("the checkpoint's tensors for other heads are not used: %s", ", ".join(heads))


def _check_kinds(entries: Iterable[StoredTensor]) -> None:
    for entry in entries:
        tensor = entry.tensor
        if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
            where = "meta" if tensor.is_meta else tensor.layout
            kind = f"{where} {tensor.dtype}".replace("torch.", "")
            raise CheckpointError(f"{entry.place} is a {kind} tensor, expected a dense one of floating point")


def _check_shapes(
    found: Mapping[str, StoredTensor], expected: Mapping[str, Tensor], ignore_mismatched_sizes: bool
) -> set[str]:
    """The names whose shapes differ, if that may be; otherwise raises CheckpointError for them."""
    mismatched: dict[str, str] = {}
    for name, parameter in expected.items():
        if name in found and found[name].tensor.shape != parameter.shape:
            ours, theirs = list(parameter.shape), list(found[name].tensor.shape)
            mismatched[name] = f"{found[name].place} has shape {theirs}, expected {ours}"
    heads_only = not any(_is_body(name) for name in mismatched)
    if mismatched and not (ignore_mismatched_sizes and heads_only):
        culprits = _listed(dict.fromkeys(mismatched.values()))  # a tied tensor counts once
        hint = "; ignore_mismatched_sizes=True initialises the head anew" if heads_only else ""
        raise CheckpointError(f"the checkpoint doesn't fit the configuration: {culprits}{hint}")
    return set(mismatched)


def _check_missing(missing: list[str], found: Mapping[str, StoredTensor]) -> None:
    body = [name for name in missing if _is_body(name)]
    if body:
        files = sorted({str(entry.file) for entry in found.values()}) or ["the checkpoint"]
        raise CheckpointError(f"{_listed(files)} lacks the model's {_listed(body)}")
    if missing:
        names = ", ".join(missing)
        logger.warning("not in the checkpoint, so initialised at random: %s", names)


def _is_body(name: str) -> bool:
    return name.removeprefix(PREFIX).startswith(tuple(f"{part}." for part in BODY))


def _listed(culprits: Iterable[str]) -> str:
    names = list(culprits)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _choose_dtype(dtype: torch.dtype | str | None, stored: Iterable[StoredTensor]) -> torch.dtype:
    chosen: object = dtype
    if dtype is None:
        chosen = torch.float32
    elif dtype == "auto":
        dtypes = {entry.tensor.dtype for entry in stored}
        chosen = next(iter(dtypes - set(DTYPES)), None) or functools.reduce(torch.promote_types, dtypes)
    elif isinstance(dtype, str):
        chosen = getattr(torch, dtype.removeprefix("torch."), dtype)
    if not isinstance(chosen, torch.dtype) or chosen not in DTYPES:
        names = [str(known).removeprefix("torch.") for known in DTYPES]
        raise ArgumentError(f"dtype is {chosen!r}, expected {one_of([*names, 'auto'])}")
    return chosen


def usable_device(device: torch.device | str | None) -> torch.device:
    """The device, the CPU for None. Raises ArgumentError for one that this torch lacks or that can't hold weights."""
    try:
        usable = torch.empty(0, device="cpu" if device is None else device).device
    except (RuntimeError, TypeError, AssertionError) as error:  # AssertionError: torch was built without it
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"device is {device!r}, expected one that this torch has: {reason}") from error
    if usable.type == "meta":
        raise ArgumentError("device is 'meta', expected one that can hold weights")
    return usable


def _allocate(model: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Give every parameter memory of its own, tied ones the same."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in made:
                made[parameter] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=device))
            setattr(module, name, made[parameter])


@torch.no_grad()
def _initialise(model: StoredModel, missing: Sequence[str]) -> None:
    for name in missing:
        model.get_parameter(name).zero_()  # a module's own bias, which the class's rule below doesn't know
    # In the model's order: a set's would differ from process to process, and with it what a seed gives.
    for owner in dict.fromkeys(name.rpartition(".")[0] for name in missing):
        model._init_weights(model.get_submodule(owner))


@torch.no_grad()
def _copy(model: nn.Module, found: Mapping[str, StoredTensor]) -> None:
    for name, entry in found.items():
        model.get_parameter(name).copy_(entry.tensor)
