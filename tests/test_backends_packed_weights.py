"""Packed weights stand for the weight as it is now, and go when it goes."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast.backends import cpu
from squeezebert_fast.modeling import SqueezeBertModel
from squeezebert_fast.ops import grouped_pointwise_conv, reference
from tests.model_pairs import tiny_config

pytestmark = pytest.mark.skipif(not cpu.instruction_sets(), reason="the native module is not built")


def module(seed: int = 0, groups: int = 4) -> nn.Conv1d:
    torch.manual_seed(seed)
    return nn.Conv1d(24, 36, 1, groups=groups)


X = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def assert_fresh(conv: nn.Conv1d, x: Tensor = X) -> None:
    with torch.no_grad():
        weight, bias = conv.weight, conv.bias
        actual = grouped_pointwise_conv(x, weight, bias, conv.groups, backend="cpu", strict=True)
        torch.testing.assert_close(actual, reference.grouped_pointwise_conv(x, weight, bias, conv.groups))


def optimizer_step(conv: nn.Conv1d) -> None:
    optimizer = torch.optim.AdamW(conv.parameters(), lr=0.1)
    grouped_pointwise_conv(X, conv.weight, conv.bias, conv.groups, backend="cpu").square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def one_element(conv: nn.Conv1d) -> None:
    with torch.no_grad():
        conv.weight[35, 5] = 7.0


def in_inference_mode(conv: nn.Conv1d) -> None:
    with torch.inference_mode():
        conv.weight[0, 0] = 7.0


def through_a_flat_vector(conv: nn.Conv1d) -> None:
    flat = nn.utils.parameters_to_vector(conv.parameters()).detach() * 3
    nn.utils.vector_to_parameters(flat, conv.parameters())
    assert_fresh(conv)
    flat.mul_(-1)  # the parameters are views of it, and their versions don't tell


def data_of_a_copy(conv: nn.Conv1d) -> None:
    other = conv.weight.detach().clone()
    other[17, 3] = 7.0  # differs in one element, and lies elsewhere
    conv.weight.data = other


def to_and_back(conv: nn.Conv1d) -> None:
    conv.half().double().to(torch.bfloat16).float()


WRITES: dict[str, Callable[[nn.Conv1d], object]] = {
    "optimizer step": optimizer_step,
    "load_state_dict": lambda conv: conv.load_state_dict(module(seed=1).state_dict()),
    "load_state_dict, assigned": lambda conv: conv.load_state_dict(module(seed=1).state_dict(), assign=True),
    "in place": lambda conv: nn.init.normal_(conv.weight),
    "one element in place": one_element,
    "in inference mode": in_inference_mode,
    "data.mul_": lambda conv: conv.weight.data.mul_(2),
    "data = other": lambda conv: setattr(conv.weight, "data", torch.randn(36, 6, 1)),
    "data = copy but for one element": data_of_a_copy,
    "flat vector": through_a_flat_vector,
    "detach().copy_": lambda conv: conv.weight.detach().copy_(torch.randn(36, 6, 1)),
    "numpy": lambda conv: conv.weight.detach().numpy().__imul__(3),
    "to another dtype and back": to_and_back,
    "new parameter": lambda conv: setattr(conv, "weight", nn.Parameter(torch.randn(36, 6, 1))),
    "other strides": lambda conv: setattr(conv.weight, "data", torch.randn(6, 36, 1).transpose(0, 1)),
    "bias": lambda conv: conv.bias.data.mul_(3),
    "requires_grad_": lambda conv: conv.weight.requires_grad_(False),
    "share_memory_": lambda conv: conv.share_memory(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_written_weight_is_never_answered_with_its_old_value(write: str) -> None:
    conv = module()
    for _ in range(2):
        assert_fresh(conv)
        WRITES[write](conv)
        assert_fresh(conv)


@pytest.mark.parametrize("make", [module, lambda: nn.Linear(6, 36)])
def test_an_unchanged_weight_is_packed_once(make: Callable[[], Any]) -> None:
    conv = make()
    packed = cpu.packed_weight(conv.weight, 4)
    with torch.no_grad():
        grouped_pointwise_conv(X, conv.weight, conv.bias, 4, backend="cpu")
    grouped_pointwise_conv(
        X, conv.weight, conv.bias, 4, backend="cpu"
    ).sum().backward()  # a leaf in a graph too
    assert cpu.packed_weight(conv.weight, 4) is packed
    assert cpu.packed_weight(conv.weight, 2) is not packed


def test_a_weight_in_training_has_no_checksums_until_it_stays_as_it_is() -> None:
    conv = module()
    checksums: list[bool] = []
    own = cpu.fingerprint

    def counted(tensors: Any, samples: int, **options: bool) -> Any:
        checksums.append(options["checksums"])
        return own(tensors, samples, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "fingerprint", counted)
        for _ in range(3):  # steps, each with one use
            cpu.packed_weight(conv.weight, 4)
            with torch.no_grad():
                conv.weight += 1.0
        assert checksums == [True, False, False]
        packed = [cpu.packed_weight(conv.weight, 4) for _ in range(6)]
    assert checksums == [True, False, False, False, True]
    assert packed[0] is packed[1]
    assert packed[1] is not packed[2]
    assert all(each is packed[2] for each in packed[3:])
    before = grouped_pointwise_conv(X, conv.weight, conv.bias, 4, backend="cpu")
    conv.weight.data[35, 0] += 5.0
    after = grouped_pointwise_conv(X, conv.weight, conv.bias, 4, backend="cpu")
    assert not torch.equal(before, after)


def test_the_same_weight_serves_any_grouping_and_instruction_set() -> None:
    conv = module()
    for groups in (4, 2, 1, 4):
        x = torch.randn(5, 6 * groups)
        for name in cpu.instruction_sets():
            with cpu.use_instruction_set(name):
                y = grouped_pointwise_conv(x, conv.weight, conv.bias, groups, backend="cpu")
                expected = reference.grouped_pointwise_conv(x, conv.weight, conv.bias, groups)
                torch.testing.assert_close(y, expected)
                assert cpu.packed_weight(conv.weight, groups).instruction_set == name


def test_a_freed_weight_leaves_nothing_even_if_its_identity_is_reused() -> None:
    before = cpu.packed_bytes()
    identities = set()
    for seed in range(50):
        weight = torch.randn(36, 6, 1, generator=torch.Generator().manual_seed(seed))
        identities.add(id(weight))
        y = grouped_pointwise_conv(X, weight, None, 4, backend="cpu")
        torch.testing.assert_close(y, reference.grouped_pointwise_conv(X, weight, None, 4))
        del weight
    assert len(identities) < 50, "no identity was reused, so that this test shows nothing"
    assert cpu.packed_bytes() == before


def test_a_weight_in_a_cycle_or_kept_by_a_graph_goes_in_the_end() -> None:
    gc.collect()
    before = cpu.packed_bytes()
    conv = module()
    conv.itself = [conv]  # type: ignore[assignment]
    y = grouped_pointwise_conv(X, conv.weight, conv.bias, 4, backend="cpu")
    assert cpu.packed_bytes() > before
    del conv
    gc.collect()
    torch.autograd.backward(y.sum())
    del y
    gc.collect()
    assert cpu.packed_bytes() == before


def test_nothing_is_left_after_unpatch_nor_after_deletion() -> None:
    gc.collect()
    before = cpu.packed_bytes()
    model = squeezebert_fast.patch(SqueezeBertModel(tiny_config()).eval(), backend="cpu")
    ids = torch.tensor([[1, 2, 3]])
    model(ids)
    held = cpu.packed_bytes()
    assert held > before
    other = copy.deepcopy(model)
    other(ids)
    assert cpu.packed_bytes() - held == held - before
    squeezebert_fast.unpatch(model)
    assert cpu.packed_bytes() == held
    del other
    gc.collect()
    assert cpu.packed_bytes() == before
    squeezebert_fast.patch(model, backend="cpu")(ids)
    squeezebert_fast.patch(model, backend="reference")  # patching again drops what was packed
    assert cpu.packed_bytes() == before


def test_a_write_that_pytorch_gives_no_sign_of_is_read_after_patching_again() -> None:
    model = squeezebert_fast.patch(SqueezeBertModel(tiny_config()).eval(), backend="cpu")
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model(ids)
        for conv in (m for m in model.modules() if isinstance(m, nn.Conv1d)):
            conv.weight.data[1, 1] += 1.0
        squeezebert_fast.patch(model, backend="cpu")
        actual = model(ids)[0]
        torch.testing.assert_close(actual, squeezebert_fast.unpatch(model)(ids)[0], rtol=1e-4, atol=1e-4)


def test_tensors_can_be_swapped_once_their_packed_weights_are_dropped() -> None:
    conv = module()
    assert_fresh(conv)
    with pytest.raises(RuntimeError, match="weakref"):  # as after torch.compile, which holds parameters alike
        torch.utils.swap_tensors(conv.weight, nn.Parameter(torch.randn(36, 6, 1)))
    cpu.forget(conv.weight)
    torch.utils.swap_tensors(conv.weight, nn.Parameter(torch.randn(36, 6, 1)))
    assert_fresh(conv)


def test_two_models_that_share_weights_see_each_others_writes() -> None:
    models = [squeezebert_fast.patch(SqueezeBertModel(tiny_config()).eval(), backend="cpu") for _ in range(2)]
    models[1].encoder.layers = models[0].encoder.layers
    models[1].embeddings = models[0].embeddings
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(models[0](ids)[0], models[1](ids)[0])
        models[0].encoder.layers[0].output.conv1d.weight.mul_(2)
        assert torch.equal(models[0](ids)[0], models[1](ids)[0])
        squeezebert_fast.unpatch(models[0])
        torch.testing.assert_close(models[0](ids)[0], models[1](ids)[0], rtol=1e-4, atol=1e-4)


def test_functional_call_uses_the_given_weights_and_leaves_nothing() -> None:
    model = squeezebert_fast.patch(SqueezeBertModel(tiny_config()).eval(), backend="cpu")
    plain = squeezebert_fast.unpatch(copy.deepcopy(model))
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        model(ids)
        held = cpu.packed_bytes()
        for factor in (2.0, -1.0):
            replaced = {name: factor * p for name, p in model.named_parameters()}
            actual = torch.func.functional_call(model, replaced, (ids,))[0]
            expected = torch.func.functional_call(plain, replaced, (ids,))[0]
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
            del replaced
        assert cpu.packed_bytes() == held
        torch.testing.assert_close(model(ids)[0], plain(ids)[0], rtol=1e-4, atol=1e-4)


def test_threads_may_share_a_weight_that_is_updated_between_their_calls() -> None:
    conv = module()
    errors: list[BaseException] = []
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            generator = torch.Generator().manual_seed(number)
            own = module(seed=number)
            for step in range(20):
                barrier.wait(timeout=60)
                if number == 0:
                    with torch.no_grad():
                        conv.weight.copy_(torch.randn(36, 6, 1, generator=generator) * (1 + step))
                    own.weight.data = torch.randn(36, 6, 1, generator=generator)
                barrier.wait(timeout=60)
                for tokens in (1, 7, 40):
                    x = torch.randn(tokens, 24, generator=generator)
                    assert_fresh(conv, x)
                    assert_fresh(own, x)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
