"""`cuda_graphs`: when a graph is captured, reused, dropped or not possible. The recorder here needs no GPU.

On a GPU, tests/triton/test_patch_kernels.py runs it for real.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import squeezebert_fast
from squeezebert_fast import ArgumentError
from squeezebert_fast.patching.cuda_graphs import CudaGraphs, CudaRecorder
from tests.fake_triton import fake_triton
from tests.model_pairs import pair, tiny_config


class FakeRecorder:
    """Records the function itself. As of a CUDA graph, results land in the tensors of the first run."""

    def __init__(self) -> None:
        self.captures = self.replays = self.running = 0
        self.why_not: str | None = None

    def refusal(self, device: torch.device) -> str | None:
        return self.why_not

    def record(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.captures += 1
        output = run()
        leaves = pytree.tree_leaves(output)
        for leaf in leaves:
            leaf.fill_(torch.nan)  # a capture computes nothing

        def replay() -> None:
            self.replays += 1
            for leaf, value in zip(leaves, pytree.tree_leaves(run()), strict=True):
                leaf.copy_(value)

        return output, replay

    def wait(self) -> None:
        self.running += 1
        assert self.running == 1, "two calls at once"

    def done(self) -> None:
        self.running = 0


class Waiting(FakeRecorder):
    """`wait` without `done` is what a capture leaves."""

    def wait(self) -> None:
        self.running = 1


def graphs_of(model: nn.Module, max_graphs: int = 4) -> tuple[CudaGraphs, FakeRecorder]:
    recorder = Waiting()
    return CudaGraphs(model, max_graphs, recorder), recorder


def model_of(library: int = 0, **fields: Any) -> Any:
    return pair("SqueezeBertModel", tiny_config(**fields))[library]


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 61, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("library", [0, 1])
def test_one_capture_for_each_form_of_the_inputs_in_any_order(library: int, mode: Any) -> None:
    model = model_of(library)
    infer, recorder = graphs_of(model)
    calls: list[dict[str, Any]] = [
        {"input_ids": ids(2, 5, seed=1)},
        {"input_ids": ids(2, 6, seed=2)},
        {"input_ids": ids(2, 5, seed=3), "attention_mask": torch.ones(2, 5)},
        {"input_ids": ids(2, 5, seed=4), "attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])},
        {"input_ids": ids(2, 5, seed=5), "output_hidden_states": True},
        {"input_ids": ids(2, 5, seed=6), "return_dict": False},
        {"input_ids": ids(2, 5, seed=7).int()},
    ]
    infer, recorder = graphs_of(model, max_graphs=len(calls))
    with mode():
        for _ in range(2):
            for given in calls:
                actual, expected = infer(**given), model(**given)
                assert type(actual) is type(expected)
                for a, e in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
                    torch.testing.assert_close(a, e)
    assert (recorder.captures, recorder.replays) == (len(calls), 2 * len(calls))
    assert infer.reasons == {}


def test_positions_names_and_order_of_arguments_are_one_form() -> None:
    model = model_of()
    infer, recorder = graphs_of(model)
    x, mask = ids(1, 4), torch.ones(1, 4)
    with torch.no_grad():
        for y in (infer(x, mask), infer(attention_mask=mask, input_ids=x), infer(x, attention_mask=mask)):
            torch.testing.assert_close(y[0], model(x, mask)[0])
        assert recorder.captures == 1
        with pytest.raises(TypeError):
            infer(x, mask, nonsense=1)
        with pytest.raises(TypeError):
            infer(*(None,) * 20)


def test_modes_share_graphs() -> None:
    model = model_of()
    infer, recorder = graphs_of(model)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            x = ids(1, 4)
            torch.testing.assert_close(infer(input_ids=x)[0], model(x)[0])
    assert (recorder.captures, recorder.replays) == (1, 3)


def test_no_later_call_overwrites_what_was_returned() -> None:
    infer, _ = graphs_of(model_of())
    with torch.inference_mode():
        first = infer(input_ids=ids(2, 5, seed=1), output_hidden_states=True)
        kept = [t.clone() for t in pytree.tree_leaves(first)]
        infer(input_ids=ids(2, 5, seed=2), output_hidden_states=True)
        assert all(map(torch.equal, pytree.tree_leaves(first), kept))
        assert first.hidden_states[-1] is first.last_hidden_state  # as the model has it


def test_inputs_are_read_and_never_written() -> None:
    infer, _ = graphs_of(model_of())
    x = ids(2, 5)
    with torch.no_grad():
        before = x.clone()
        infer(input_ids=x)
        infer(input_ids=ids(2, 5, seed=9))
        assert torch.equal(x, before)
        strided = ids(5, 2).t()
        torch.testing.assert_close(infer(input_ids=strided)[0], infer.model(strided)[0])


def test_the_graph_unused_for_longest_is_dropped() -> None:
    infer, recorder = graphs_of(model_of(), max_graphs=2)
    with torch.no_grad():
        for tokens in (3, 4, 3, 5, 3):  # 4 goes when 5 comes
            infer(input_ids=ids(1, tokens))
        assert recorder.captures == 3
        infer(input_ids=ids(1, 4))
        assert recorder.captures == 4
        assert len(infer._graphs) == 2
        infer.clear()
        infer(input_ids=ids(1, 4))
        assert recorder.captures == 5


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.encoder.layers[0].output.conv1d.weight.mul_(2.0)
        model.embeddings.word_embeddings.weight.data[:] += 1.0


def test_values_that_change_in_place_need_no_new_graph() -> None:
    model = model_of()
    infer, recorder = graphs_of(model)
    with torch.no_grad():
        before = infer(input_ids=ids(1, 4))[0]
        in_place(model)
        after = infer(input_ids=ids(1, 4))[0]
        torch.testing.assert_close(after, model(ids(1, 4))[0])
        assert not torch.equal(before, after)
    assert recorder.captures == 1


def by_data(model: Any) -> None:
    weight = model.encoder.layers[0].output.conv1d.weight
    weight.data = weight.data * 2


def by_parameter(model: Any) -> None:
    model.pooler.dense.weight = nn.Parameter(torch.randn(24, 24))


def by_module(model: Any) -> None:
    model.encoder.layers[1] = model.encoder.layers[0]


def by_loading(model: Any) -> None:
    state = {name: value * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def by_patching(model: Any) -> None:
    squeezebert_fast.patch(model, backend="reference")


def by_dtype(model: Any) -> None:
    model.double()


CHANGES = [by_data, by_parameter, by_module, by_loading, by_patching, by_dtype]


@pytest.mark.parametrize("change", CHANGES)
def test_what_moves_or_replaces_captures_anew(change: Callable[[Any], None]) -> None:
    model = model_of()
    infer, recorder = graphs_of(model)
    with torch.no_grad():
        infer(input_ids=ids(1, 4))
        infer(input_ids=ids(1, 5))
        change(model)
        for tokens in (4, 5, 4):
            torch.testing.assert_close(
                infer(input_ids=ids(1, tokens))[0], model(ids(1, tokens))[0], rtol=1e-4, atol=1e-5
            )
    assert recorder.captures == 4
    assert len(infer._graphs) == 2


def test_int8_weights_are_kept_and_made_anew_when_values_change() -> None:
    with fake_triton():
        model = squeezebert_fast.patch(model_of(), backend="triton", precision="int8")
        infer, recorder = graphs_of(model)
        with torch.no_grad():
            infer(input_ids=ids(1, 4))
            (graph,) = infer._graphs.values()
            assert isinstance(graph, tuple)
            assert any(snapshot is not None for snapshot in graph.kept)
            in_place(model)
            torch.testing.assert_close(infer(input_ids=ids(1, 4))[0], model(ids(1, 4))[0])
            assert recorder.captures == 2


# Without a graph


def reason_for(infer: CudaGraphs, recorder: FakeRecorder, expected: Any, **given: Any) -> str:
    """The reason for which this call runs without a graph, and that it gives what the model gives."""
    before = (recorder.captures, recorder.replays)
    torch.manual_seed(3)
    actual = infer(**given)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(actual, expected(**given)[0])
    assert (recorder.captures, recorder.replays) == before
    (reason,) = infer.reasons.values()
    return reason


def test_gradients_dropout_hooks_and_contexts_run_the_model() -> None:
    model = model_of(hidden_dropout_prob=0.5)
    infer, recorder = graphs_of(model)
    x = ids(2, 4)
    assert "gradients are recorded" in reason_for(infer, recorder, model, input_ids=x)
    assert infer(input_ids=x)[0].requires_grad
    with torch.no_grad():
        infer(input_ids=x)
        assert infer.reasons == {}
        model.train()
        assert reason_for(infer, recorder, model, input_ids=x) == "dropout is on"
        model.eval()
        with torch.autocast("cpu"):
            assert reason_for(infer, recorder, model, input_ids=x) == "autocast is active"
        recorder.why_not = "a CUDA graph is being captured around this call"
        assert reason_for(infer, recorder, model, input_ids=x) == recorder.why_not
        recorder.why_not = None
        seen: list[int] = []
        handle = model.encoder.layers[0].register_forward_hook(lambda *_: seen.append(1))
        assert "a hook" in reason_for(infer, recorder, model, input_ids=x)
        assert len(seen) == 2
        handle.remove()
        infer(input_ids=x)
        assert infer.reasons == {}
        own = model.pooler.forward
        model.pooler.forward = lambda t: own(t) * 2
        assert "another forward" in reason_for(infer, recorder, model, input_ids=x)
        del model.pooler.forward
        infer(input_ids=x)
        assert infer.reasons == {}
        mask = 2 * [torch.ones(4)]  # not a tensor: the model raises its own error
        with pytest.raises(ArgumentError):
            infer(input_ids=x, attention_mask=mask)
        assert "neither a tensor nor a plain constant" in " ".join(infer.reasons.values())


def test_a_model_without_a_gpu_runs_as_it_is() -> None:
    model = model_of()
    infer = squeezebert_fast.cuda_graphs(model)
    with torch.no_grad():
        torch.testing.assert_close(infer(input_ids=ids(1, 4))[0], model(ids(1, 4))[0])
    assert list(infer.reasons.values()) == ["the model is on cpu, not on a CUDA GPU"]
    model.pooler.to("meta")
    with pytest.raises(RuntimeError), torch.no_grad():
        infer(input_ids=ids(1, 4))
    assert list(infer.reasons.values()) == ["model and inputs are on cpu, meta"]


def test_a_failed_capture_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    infer, recorder = graphs_of(model)
    tries: list[int] = []

    def fail(run: Callable[[], Any]) -> Any:
        tries.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorder, "record", fail)
    with torch.no_grad():
        for _ in range(2):
            reason = reason_for(infer, recorder, model, input_ids=ids(1, 4))
            assert reason == "capture failed: RuntimeError: operation not permitted when stream is capturing"
    assert tries == [1]


def test_the_models_own_errors_come_through() -> None:
    infer, _ = graphs_of(model_of())
    with torch.no_grad(), pytest.raises(ArgumentError, match="expected exactly one of input_ids"):
        infer()
    with torch.no_grad(), pytest.raises(ArgumentError, match="at most max_position_embeddings"):
        infer(input_ids=ids(1, 20))


def test_threads_take_turns() -> None:
    model = model_of()
    recorder = FakeRecorder()
    infer = CudaGraphs(model, 4, recorder)
    with torch.no_grad():
        expected = {seed: model(ids(1, 4, seed=seed))[0] for seed in range(4)}
    recorder.wait = lambda: None  # type: ignore[method-assign]
    with torch.no_grad():
        infer(input_ids=ids(1, 4))
    del recorder.wait
    wrong: list[int] = []

    def work(seed: int) -> None:
        with torch.inference_mode():
            for _ in range(20):
                if not torch.allclose(infer(input_ids=ids(1, 4, seed=seed))[0], expected[seed], atol=1e-6):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert (recorder.captures, recorder.replays) == (1, 81)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match="model is a str"):
        squeezebert_fast.cuda_graphs("model")  # type: ignore[arg-type]
    for wrong in (0, 1.5, None):
        with pytest.raises(ArgumentError, match="max_graphs is"):
            squeezebert_fast.cuda_graphs(model_of(), max_graphs=wrong)  # type: ignore[arg-type]


# The recorder itself, with PyTorch's part of it as it behaves on two GPUs


class TwoGpus:
    """Stands in for `torch.cuda`. Streams and events are of the device that is current when they are made; a stream
    that is entered makes its own device current; a capture without a stream has the first one that was made for one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current: Any = None
        fake = self

        class Stream:
            def __init__(self) -> None:
                self.device = fake.current.device

            def wait_stream(self, other: Any) -> None:
                pass

            def wait_event(self, event: Any) -> None:
                pass

        class Event:
            def __init__(self) -> None:
                self.device = fake.current.device

            def record(self) -> None:
                assert self.device == fake.current.device, "an event of another device than the stream's"

        class Graph:
            default: Any = None

            def __init__(self, graph: Any, pool: Any = None, stream: Any = None, **options: Any) -> None:
                if stream is None and Graph.default is None:
                    Graph.default = Stream()
                self._context = fake.stream(stream or Graph.default)

            def __enter__(self) -> None:
                self._context.__enter__()

            def __exit__(self, *error: Any) -> None:
                self._context.__exit__(*error)

        class CUDAGraph:
            def replay(self) -> None:
                pass

        self._stream = Stream
        of_torch = {"Stream": Stream, "Event": Event, "CUDAGraph": CUDAGraph, "graph": Graph}
        of_torch |= {"stream": self.stream, "current_stream": lambda: self.current}
        of_torch |= {"current_device": lambda: self.current.device.index}
        for name, value in of_torch.items():
            monkeypatch.setattr(torch.cuda, name, value)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def use(self, index: int) -> None:
        """Make a device current."""
        self.current = type("Device", (), {"device": torch.device("cuda", index)})()
        self.current = self._stream()


def test_a_capture_is_on_the_models_own_gpu_whichever_captured_first(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = TwoGpus(monkeypatch)
    for index in (0, 1, 0):
        gpus.use(index)
        ran_on: list[int] = []
        CudaRecorder().record(lambda ran_on=ran_on: ran_on.append(gpus.current.device.index))
        assert ran_on == [index] * 3, "two runs before the capture, and the one that is captured"


def test_a_model_that_moved_to_another_gpu_marks_the_end_of_its_work_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus = TwoGpus(monkeypatch)
    recorder = CudaRecorder()
    for index in (0, 1, 1):
        gpus.use(index)
        recorder.wait()
        recorder.done()
