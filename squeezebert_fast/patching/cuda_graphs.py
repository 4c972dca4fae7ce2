"""CUDA graphs around a whole model: for small inputs, whose kernels take the CPU longer to launch than the GPU to run.

    model = squeezebert_fast.patch(model.half().cuda().eval())
    infer = squeezebert_fast.cuda_graphs(model)
    output = infer(input_ids=ids, attention_mask=mask)

A graph replays kernels on the very addresses that it was captured with, so there is one for each form of the inputs
(names, shapes, dtypes), and a call copies its inputs in, replays, and copies the outputs out:

    call -> form known? -- no --> run once (compiles), capture on static copies of the inputs
              | yes                                    |
              v                                        v
        copy inputs in -> replay -> copy outputs out: nothing that was returned is ever overwritten
"""

from __future__ import annotations

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeezebert_fast.backends.request import context_obstacle, gradients_are_recorded
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching.engines import Engine
from squeezebert_fast.patching.holders import is_ours
from squeezebert_fast.patching.obstacles import hooks_on_every_module
from squeezebert_fast.patching.plan import engine_of
from squeezebert_fast.patching.structure import Structure
from squeezebert_fast.patching.swapping import SETTINGS, has_own_forward


class Recorder(Protocol):
    """What records work on a device. The CUDA one is `CudaRecorder`; tests have one that needs no GPU."""

    def refusal(self, device: torch.device) -> str | None:
        """Why nothing can be recorded on `device` now, or None."""

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """Run `run` and record its work; what it returned, and a function that does the work again into that."""

    def wait(self) -> None:
        """Let this stream's coming work begin after what `done` was called behind, on whatever stream."""

    def done(self) -> None:
        """Mark the end of the work on the static tensors so far."""


class CudaRecorder:
    """Records into `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self._end: torch.cuda.Event | None = None

    def refusal(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"the model is on {device}, not on a CUDA GPU"
        if device.index != torch.cuda.current_device():
            return f"the model is on {device}, the current device is cuda:{torch.cuda.current_device()}"
        if torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured around this call"
        return None

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        stream = torch.cuda.Stream()  # of the current device, which `refusal` found to be the model's
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles kernels and makes libraries allocate what they keep
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # The stream is given: `torch.cuda.graph` has one for the whole process, of the device that captured first, and
        # on another device's nothing is recorded. thread_local: other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = run()
        return output, graph.replay

    def wait(self) -> None:
        if self._end is not None:
            torch.cuda.current_stream().wait_event(self._end)

    def done(self) -> None:
        end = self._end
        if end is None or end.device.index != torch.cuda.current_device():
            end = torch.cuda.Event()  # an event is one device's, and the model may have moved
        end.record()
        self._end = end


class _Graph(NamedTuple):
    inputs: dict[str, Tensor]
    outputs: list[Any]
    container: pytree.TreeSpec
    """Of `outputs`."""
    replay: Callable[[], None]
    kept: list[Engine | None]
    """What holds memory that the graph reads and that the model might let go: int8 weights."""


class _Model(Structure):
    """The model as it was when graphs were captured."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        super().__init__(modules, modules, is_idle=is_ours)  # which a replay does again
        self._tensors = [t for t in self.held_values if isinstance(t, Tensor)]
        settings = (module.__dict__.get(SETTINGS) for module in modules)
        self._quantized = any(one is not None and one.precision == "int8" for one in settings)
        self._places = self._where()
        self._had_hooks = self.hooked()
        self.devices = {tensor.device for tensor in self._tensors}
        self.overridden = any(map(has_own_forward, modules))

    def current(self) -> bool:
        return not self.overridden and self.unchanged() and self._where() == self._places

    def refuses(self) -> bool:
        """Whether a replay would leave out code of a module; asked of a `current` model, which has no new hooks."""
        return self.overridden or (self._had_hooks and self.hooked())

    def _where(self) -> list[Any]:
        where = [*map(Tensor.data_ptr, self._tensors), *(tensor.dtype for tensor in self._tensors)]
        if self._quantized:  # values count too
            where += [tensor._version for tensor in self._tensors if not tensor.is_inference()]
        return where


class CudaGraphs:
    """A model called through CUDA graphs. Made by `cuda_graphs`."""

    reasons: dict[object, str]
    """By form of the inputs, why the last call of it didn't run from a graph; empty if all did."""

    def __init__(self, model: nn.Module, max_graphs: int, recorder: Recorder) -> None:
        self.model = model
        self.reasons = {}
        self._max_graphs, self._recorder = max_graphs, recorder
        self._signature = inspect.signature(model.forward)
        self._graphs: OrderedDict[object, _Graph | str] = OrderedDict()
        self._known: _Model | None = None
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own arguments and results, which are part of no autograd graph where a CUDA graph runs."""
        given = self._arguments(args, kwargs) if args else kwargs
        form = _form(given)
        with self._lock:
            graph = self._refusal(given, form) or self._graph(form, given)
            if isinstance(graph, _Graph):
                if self.reasons:
                    self.reasons.pop(form, None)
                return self._replay(graph, given)
            self.reasons[form] = graph
        return self.model(*args, **kwargs)

    def clear(self) -> None:
        """Free all graphs and their memory."""
        with self._lock:
            self._graphs.clear()
            self._known = None

    def _arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """By name. Raises TypeError, as the model would, for wrong ones."""
        bound = self._signature.bind(*args, **kwargs)
        given = dict(bound.arguments)
        for name, parameter in self._signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given.update(given.pop(name, {}))
        return given

    def _refusal(self, given: dict[str, Any], form: object) -> str | None:
        """Why no graph may serve this call, or None. Finds out whether the model changed, and drops graphs if so."""
        if form is None:
            return "an argument is neither a tensor nor a plain constant"
        if reason := context_obstacle() or hooks_on_every_module():
            return reason
        if torch._C._is_any_autocast_enabled():
            return "autocast is active"
        if self._known is None or not self._known.current():
            self._graphs.clear()  # a parameter is elsewhere, or other code would run
            self._known = _Model(self.model)
        known = self._known
        tensors = [value for value in given.values() if isinstance(value, Tensor)]
        if gradients_are_recorded(*tensors, *(known.parameters if torch.is_grad_enabled() else ())):
            return "gradients are recorded (call it under torch.inference_mode())"
        if known.refuses():
            return "a hook or another forward is on a module, which a replay would not call"
        if not known.dropout_is_off():
            return "dropout is on"
        devices = known.devices | {tensor.device for tensor in tensors}
        if len(devices) != 1:
            return f"model and inputs are on {', '.join(sorted(map(str, devices))) or 'no device'}"
        return self._recorder.refusal(devices.pop())

    def _graph(self, form: object, given: dict[str, Any]) -> _Graph | str:
        """The graph for this form of inputs, captured if it is new, or why there can't be one."""
        if form not in self._graphs:
            while len(self._graphs) >= self._max_graphs:
                self._graphs.popitem(last=False)
            self._graphs[form] = self._capture(given)
        self._graphs.move_to_end(form)
        return self._graphs[form]

    def _capture(self, given: dict[str, Any]) -> _Graph | str:
        # static tensors serve calls within and without inference mode, so they are made without
        with torch.inference_mode(False), torch.no_grad():
            inputs = {name: value.clone() for name, value in given.items() if isinstance(value, Tensor)}
            self._recorder.wait()
            try:
                output, replay = self._recorder.record(lambda: self.model(**{**given, **inputs}))
            except (
                RuntimeError
            ) as error:  # what a capture forbids: reading a tensor, most of all; or memory is short
                first_line = str(error).strip().partition("\n")[0]
                return f"capture failed: {type(error).__name__}: {first_line}"
        outputs, container = pytree.tree_flatten(output)
        kept = [engine_of(module) for module in self.model.modules()]
        return _Graph(inputs, outputs, container, replay, kept)

    def _replay(self, graph: _Graph, given: dict[str, Any]) -> Any:
        self._recorder.wait()
        with torch.no_grad():
            for name, static in graph.inputs.items():
                static.copy_(given[name])
            graph.replay()
            copies: dict[int, Any] = {}  # what was one tensor stays one
            for value in graph.outputs:
                if id(value) not in copies:
                    copies[id(value)] = value.clone() if isinstance(value, Tensor) else value
        self._recorder.done()
        return pytree.tree_unflatten([copies[id(value)] for value in graph.outputs], graph.container)


def _form(given: dict[str, Any]) -> object:
    """What a graph depends on of the arguments, or None for what can't be told."""
    form: list[Any] = []
    for name, value in given.items():
        if isinstance(value, Tensor):
            form.append((name, value.dtype, value.shape, value.device))
        elif value is None or isinstance(value, (bool, int, float, str)):
            form.append((name, type(value), value))
        else:
            return None
    return frozenset(form)


def cuda_graphs(model: nn.Module, *, max_graphs: int = 16) -> CudaGraphs:
    """`model` for inference through CUDA graphs, one for each form of its inputs, captured when it first comes.

    Worth its memory where launching is what takes the time, at batches of a few sentences. Shapes may come in any
    order; where they are many, pad to a few lengths. Each graph holds its inputs, outputs and intermediate results;
    beyond `max_graphs` the one that was used longest ago is dropped. Parameters may change in place; when one is moved
    or replaced, or a module, class or setting changes (as by `patch` and `unpatch`), all graphs are captured anew.

    What a graph can't do runs as `model(...)` does, and the result's `reasons` say why: gradients, dropout, hooks,
    autocast, another device, arguments that are neither tensors nor plain constants, code that reads a tensor on the
    host. Changes of the configuration after a capture go unseen: call `clear()`. With `unpad=True` padding is computed
    and then cleared, since a graph's shapes can't depend on a mask's values. Outputs are copies, which no later call
    overwrites. Calls from several threads wait for one another.

    Args:
        model: any module that takes tensors and returns them, in containers or model outputs; best patched before.
        max_graphs: at least 1.

    Returns:
        A callable with the arguments and results of `model`.

    Raises:
        ArgumentError: `model` is no module, or `max_graphs` below 1.

    >>> device = "cuda" if torch.cuda.is_available() else "cpu"
    >>> model = SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=1)).eval().to(device)
    >>> infer = squeezebert_fast.cuda_graphs(squeezebert_fast.patch(model))
    >>> with torch.inference_mode():
    ...     infer(input_ids=torch.tensor([[101, 7592, 102]], device=device)).last_hidden_state.shape
    torch.Size([1, 3, 768])
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model is a {type(model).__name__}, expected a module")
    if not isinstance(max_graphs, int) or max_graphs < 1:
        raise ArgumentError(f"max_graphs is {max_graphs!r}, expected at least 1")
    return CudaGraphs(model, max_graphs, CudaRecorder())
