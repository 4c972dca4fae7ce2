"""`patch` and `unpatch` change nothing but the forward, and the model's whole life goes on."""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import squeezebert_fast
import squeezebert_fast.modeling as modeling
from squeezebert_fast import ArgumentError, UnsupportedError
from tests.helpers import leave_process_group
from tests.model_pairs import CLASSES, inputs_for, pair, tiny_config

LIBRARIES = ["ours", "theirs"]
INPUTS = inputs_for("SqueezeBertModel", tiny_config())


def model_of(library: str, name: str = "SqueezeBertModel", **fields: Any) -> nn.Module:
    ours, theirs = pair(name, tiny_config(**fields))
    return ours if library == "ours" else theirs


def first(model: nn.Module, **inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**(inputs or INPUTS))[0]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=2e-5, atol=2e-5)


def is_patched(model: nn.Module) -> bool:
    return any("_squeezebert_fast_settings" in m.__dict__ for m in model.modules())


def anatomy(model: nn.Module) -> list[Any]:
    """Everything that unpatch must leave as it was, by identity where there is one."""
    return [
        [(name, id(m), type(m), sorted(m.__dict__)) for name, m in model.named_modules()],
        [(name, id(p), p._version, p.data_ptr()) for name, p in model.named_parameters()],
        [(name, id(b)) for name, b in model.named_buffers()],
        [(name, t.data_ptr()) for name, t in model.state_dict().items()],
        repr(model),
    ]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CLASSES)
def test_unpatch_leaves_no_trace(name: str, library: str) -> None:
    model = model_of(library, name)
    inputs = inputs_for(name, tiny_config())
    before, expected = anatomy(model), first(model, **inputs)
    assert squeezebert_fast.patch(model) is model
    first(model, **inputs)
    assert anatomy(model)[1:4] == before[1:4]
    assert squeezebert_fast.unpatch(model) is model
    assert anatomy(model) == before
    assert torch.equal(first(model, **inputs), expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_patching_twice_is_patching_once(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library))
    once = anatomy(model)
    squeezebert_fast.patch(model, backend="reference")
    assert anatomy(model) == once
    assert squeezebert_fast.explain(model).rows[0].reason == "chosen by name"
    squeezebert_fast.unpatch(model)
    assert not is_patched(model)
    squeezebert_fast.unpatch(model)
    assert type(model.encoder).__name__ == "SqueezeBertEncoder"


@pytest.mark.parametrize("library", LIBRARIES)
def test_copies_and_pickles_are_patched_and_their_own(library: str) -> None:
    model = model_of(library)
    original = type(model.encoder)
    squeezebert_fast.patch(model, backend="cpu")
    expected = first(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(model),
        *(pickle.loads(pickle.dumps(model, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),  # noqa: S301
        torch.load(buffer, weights_only=False),
    ]
    for other in copies:
        assert is_patched(other)
        assert torch.equal(first(other), expected)
        assert (
            other.encoder.layers[0].attention.query.weight
            is not model.encoder.layers[0].attention.query.weight
        )
        with torch.no_grad():
            other.encoder.layers[0].attention.query.weight.mul_(2)
        assert not torch.equal(first(other), expected)
        assert type(squeezebert_fast.unpatch(other).encoder) is original
    assert is_patched(model)
    assert torch.equal(first(model), expected)
    shallow = copy.copy(model.encoder)
    squeezebert_fast.unpatch(shallow)
    assert is_patched(model)
    assert not is_patched(shallow)


def _in_child(data: bytes, connection: Any) -> None:
    torch.set_num_threads(1)
    model = pickle.loads(data)  # noqa: S301
    connection.send((is_patched(model), first(model).numpy()))


def test_a_pickle_loads_in_a_process_that_never_patched() -> None:
    model = squeezebert_fast.patch(model_of("ours"), backend="cpu")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_in_child, args=(pickle.dumps(model), theirs))
    process.start()
    assert ours.poll(120)
    patched, result = ours.recv()
    process.join(60)
    assert patched
    close(torch.from_numpy(result), first(model))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["SqueezeBertModel", "SqueezeBertForMaskedLM"])
def test_a_patched_model_saves_as_an_unpatched_one(name: str, library: str, tmp_path: Path) -> None:
    model = squeezebert_fast.patch(model_of(library, name))
    inputs = inputs_for(name, tiny_config())
    model.save_pretrained(tmp_path / "patched")
    assert json.loads((tmp_path / "patched" / "config.json").read_text())["architectures"] == [name]
    squeezebert_fast.unpatch(copy.deepcopy(model)).save_pretrained(tmp_path / "plain")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "patched" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()
    for classes in (modeling, transformers):
        loaded = getattr(classes, name).from_pretrained(tmp_path / "patched").eval()
        assert not is_patched(loaded)
        close(first(loaded, **inputs), first(model, **inputs))


@pytest.mark.parametrize("library", LIBRARIES)
def test_training_by_an_optimizer_takes_the_same_path(library: str) -> None:
    model = model_of(library, "SqueezeBertForSequenceClassification").train()
    other = squeezebert_fast.patch(copy.deepcopy(model), backend="cpu")
    inputs = inputs_for("SqueezeBertForSequenceClassification", tiny_config())
    losses: list[list[float]] = []
    for trained in (model, other):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        losses.append([])
        for _ in range(4):
            loss = trained(**inputs, labels=torch.tensor([0, 1, 0])).loss
            losses[-1].append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[0][-1] != losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    close(first(squeezebert_fast.unpatch(copy.deepcopy(other))), first(other))


@pytest.mark.parametrize("library", LIBRARIES)
def test_loading_and_moving(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library, "SqueezeBertForMaskedLM"))
    first(model)
    source = model_of(library, "SqueezeBertForMaskedLM")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.1)
    for assign in (False, True):
        model.load_state_dict({k: v.clone() for k, v in source.state_dict().items()}, assign=assign)
        close(first(model), first(source))
        first(squeezebert_fast.patch(model))
    meta = copy.deepcopy(model).to("meta")
    states = meta.transformer.encoder(
        torch.empty(2, 5, 24, device="meta"), torch.empty(2, 1, 1, 5, device="meta")
    )
    assert states[0].shape == (2, 5, 24)
    model.to("cpu").eval().requires_grad_(False)
    close(first(model), first(source))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_patched_model_can_be_resized(library: str) -> None:
    model = squeezebert_fast.patch(model_of(library, "SqueezeBertForMaskedLM"))
    expected = first(model)
    model.resize_token_embeddings(70)
    assert first(model).shape[-1] == 70
    close(first(model)[..., :61], expected)


class BiEncoder(nn.Module):
    """Two towers of both libraries and a shared one, in a larger module."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.document = pair("SqueezeBertModel", tiny_config())
        self.towers = nn.ModuleDict({"again": self.query, "other": model_of("ours", hidden_act="relu")})

    def forward(self, **inputs: Tensor) -> tuple[Tensor]:
        vectors = [m(**inputs)[1] for m in (self.query, self.document, *self.towers.values())]
        return (torch.stack(vectors),)


def test_encoders_within_a_larger_module() -> None:
    model = BiEncoder().eval()
    before, expected = anatomy(model), first(model)
    squeezebert_fast.patch(model)
    encoders = [m for m in model.modules() if hasattr(m, "layers")]
    assert len(encoders) == 3
    assert all(is_patched(encoder) for encoder in encoders)
    close(first(model), expected)
    names = {row.layer.rsplit(".", 2)[0] for row in squeezebert_fast.explain(model).rows}
    assert names == {"query.encoder", "document.encoder", "towers.other.encoder"}
    squeezebert_fast.unpatch(model)
    assert anatomy(model) == before
    assert torch.equal(first(model), expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_encoder_or_a_data_parallel_wrapper_can_be_patched(library: str) -> None:
    model = model_of(library)
    expected = first(model)
    squeezebert_fast.patch(model.encoder)
    close(first(model), expected)
    parallel = squeezebert_fast.patch(nn.DataParallel(model))
    close(first(parallel), expected)
    replica = model.encoder._replicate_for_data_parallel()
    assert type(replica) is type(model.encoder)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")
@pytest.mark.parametrize("library", LIBRARIES)
def test_distributed_data_parallel_of_one_process(library: str, tmp_path: Path) -> None:
    if not torch.distributed.is_gloo_available():
        pytest.skip("torch is built without gloo")
    model = model_of(library, "SqueezeBertForSequenceClassification")
    plain = copy.deepcopy(model)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = squeezebert_fast.patch(nn.parallel.DistributedDataParallel(squeezebert_fast.patch(model)))
        labels = torch.tensor([0, 1, 0])
        wrapped(**INPUTS, labels=labels).loss.backward()
        plain(**INPUTS, labels=labels).loss.backward()
        for (name, a), e in zip(model.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a.grad, e.grad, rtol=1e-3, atol=1e-5, msg=name)
    finally:
        leave_process_group()


@pytest.mark.parametrize("library", LIBRARIES)
def test_compilation_before_and_after_patching(library: str) -> None:
    model = model_of(library, num_hidden_layers=1)
    expected = first(model)
    compiled = torch.compile(model, backend="eager", fullgraph=library == "ours")
    close(first(compiled), expected)
    squeezebert_fast.patch(compiled)
    assert is_patched(model)
    close(first(compiled), expected)
    close(first(model), expected)
    torch.compiler.reset()
    strict = squeezebert_fast.patch(model, backend="reference", strict=True)
    close(first(torch.compile(strict, backend="aot_eager", fullgraph=library == "ours")), expected)
    squeezebert_fast.unpatch(model)
    assert torch.equal(first(model), expected)


@pytest.mark.parametrize("strict", [False, True])
def test_a_patched_model_exports_for_any_shape(strict: bool) -> None:
    model = squeezebert_fast.patch(model_of("ours", num_hidden_layers=1))
    shapes = {
        name: {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("tokens", min=2, max=19)}
        for name in INPUTS
    }
    exported = torch.export.export(model, (), INPUTS, dynamic_shapes=shapes, strict=strict)
    other = inputs_for("SqueezeBertModel", tiny_config(), seed=1, batch=2, tokens=5)
    close(exported.module()(**other)[0], first(model, **other))


def test_a_jit_trace_of_a_patched_model_is_whole() -> None:
    model = squeezebert_fast.patch(model_of("ours", return_dict=False, num_hidden_layers=1))
    with torch.no_grad():
        traced = torch.jit.trace(model, (INPUTS["input_ids"], INPUTS["attention_mask"]), check_trace=False)
        ids = (INPUTS["input_ids"] + 1) % 61
        expected = squeezebert_fast.unpatch(model)(ids, INPUTS["attention_mask"])[0]
        close(traced(ids, INPUTS["attention_mask"])[0], expected)


@pytest.mark.parametrize("library", LIBRARIES)
def test_functional_transforms_of_a_patched_model(library: str) -> None:
    model = model_of(library, num_hidden_layers=1)
    x = torch.randn(4, 2, 5, 24, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 1, 1, 5)

    def results() -> tuple[Tensor, ...]:
        encode = lambda t: model.encoder(t, mask)[0]  # noqa: E731
        jvp = torch.func.jvp(encode, (x[0],), (x[1],))
        return (torch.vmap(encode)(x), *jvp, torch.func.grad(lambda t: encode(t).square().sum())(x[0]))

    expected = results()
    squeezebert_fast.patch(model)
    torch.testing.assert_close(results(), expected)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(), transformers.GPT2Model])
def test_a_model_without_an_encoder_is_refused(model: Any) -> None:
    if isinstance(model, type):
        model = model(transformers.GPT2Config(vocab_size=11, n_embd=8, n_head=2, n_layer=1))
    with pytest.raises(
        ArgumentError,
        match=rf"model is a {type(model).__name__} without an encoder that can be accelerated: ",
    ):
        squeezebert_fast.patch(model)
    with pytest.raises(
        ArgumentError,
        match=rf"model is a {type(model).__name__} without an encoder that can be accelerated: ",
    ):
        squeezebert_fast.explain(model)
    assert squeezebert_fast.unpatch(model) is model


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"backend": "onnx"},
            ArgumentError,
            "backend is 'onnx', expected one of auto, reference, cpu, triton",
        ),
        (
            {"precision": "int4"},
            ArgumentError,
            "precision is 'int4', expected one of float32, bfloat16, int8$",
        ),
        ({"precision": torch.float32}, ArgumentError, r"precision is torch\.float32, expected one of"),
        ({"unpad": 1}, ArgumentError, "unpad is 1, expected True or False"),
        ({"unpad": None}, ArgumentError, "unpad is None, expected True or False"),
        (
            {"backend": "triton", "strict": True},
            UnsupportedError,
            "triton: the tensors are on cpu, not on a CUDA GPU",
        ),
    ],
)
def test_an_option_that_can_not_be_honoured_changes_nothing(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = model_of("ours")
    before = anatomy(model)
    with pytest.raises(error, match=message):
        squeezebert_fast.patch(model, **options)
    assert anatomy(model) == before
    assert squeezebert_fast.patch(model, precision="float32") is model


def test_unpatch_refuses_a_class_that_others_changed_after_patch() -> None:
    model = squeezebert_fast.patch(model_of("ours"))
    patched = type(model.encoder)
    model.encoder.__class__ = type("Sharded", (patched,), {})  # as FSDP's fully_shard does
    before = anatomy(model)
    close(first(model), first(model_of("ours")))
    with pytest.raises(
        UnsupportedError,
        match="the class of a patched SqueezeBertEncoder was changed to Sharded after patch; undo that",
    ):
        squeezebert_fast.unpatch(model)
    assert anatomy(model) == before
    model.encoder.__class__ = patched
    assert not is_patched(squeezebert_fast.unpatch(model))
