"""An output is at once a dataclass, a dictionary and a tuple."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn.parallel.scatter_gather import gather
from torch.utils import _pytree as pytree

from squeezebert_fast.modeling import MaskedLMOutput

LOGITS, LOSS = torch.arange(6.0).reshape(2, 3), torch.tensor(0.5)
HIDDEN = (torch.ones(2, 1), torch.zeros(2, 1))


def test_fields_are_attributes_keys_indices_and_slices() -> None:
    output = MaskedLMOutput(loss=LOSS, logits=LOGITS, hidden_states=HIDDEN)
    assert output.logits is output["logits"] is output[1] is output[:2][1] is output.to_tuple()[1] is LOGITS
    assert list(output) == list(output.keys()) == ["loss", "logits", "hidden_states"]
    assert dict(**output) == dict(output.items())
    assert output[-1] is HIDDEN


def test_what_is_none_is_no_item_but_still_an_attribute() -> None:
    output = MaskedLMOutput(logits=LOGITS)
    assert output.loss is None
    assert "loss" not in output
    assert output[0] is LOGITS
    assert len(output) == 1
    with pytest.raises(KeyError):
        output["loss"]
    with pytest.raises(AttributeError):
        output.pooler_output  # noqa: B018


def test_attributes_and_items_stay_one_state() -> None:
    output = MaskedLMOutput(logits=LOGITS)
    output.loss = LOSS
    assert output["loss"] is LOSS
    assert output.to_tuple() == (LOSS, LOGITS), "in the fields' order, not in the order of assignment"
    output["loss"] = None
    assert output.loss is None
    assert "loss" not in output
    del output["logits"]
    assert output.logits is None
    assert output.to_tuple() == ()


def test_an_output_can_be_rebuilt_from_its_items() -> None:
    output = MaskedLMOutput(logits=LOGITS, hidden_states=HIDDEN)
    from_pairs = MaskedLMOutput(
        (name, value) for name, value in output.items()
    )  # as DataParallel's gather does
    from_mapping = MaskedLMOutput(dict(output))  # as accelerate does
    for rebuilt in (from_pairs, from_mapping, copy.copy(output)):
        assert rebuilt.loss is None
        assert rebuilt.logits is LOGITS
        assert rebuilt.to_tuple() == output.to_tuple()


def test_an_output_pickles_and_copies() -> None:
    output = MaskedLMOutput(logits=LOGITS, hidden_states=HIDDEN)
    for other in (pickle.loads(pickle.dumps(output)), copy.deepcopy(output)):  # noqa: S301
        assert type(other) is MaskedLMOutput
        assert torch.equal(other.logits, LOGITS)
        assert len(other.hidden_states) == 2


def test_an_output_is_a_tree_of_tensors() -> None:
    output = MaskedLMOutput(logits=LOGITS, hidden_states=HIDDEN)
    leaves, spec = pytree.tree_flatten(output)
    assert len(leaves) == 3
    doubled = pytree.tree_unflatten([2 * leaf for leaf in leaves], spec)
    assert type(doubled) is MaskedLMOutput
    assert torch.equal(doubled.logits, 2 * LOGITS)
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


@pytest.mark.skipif(not torch.cuda.is_available(), reason="DataParallel gathers on GPUs only")
def test_data_parallel_gathers_outputs() -> None:
    device = torch.device("cuda:0")
    output = MaskedLMOutput(logits=LOGITS.to(device))
    assert torch.equal(gather([output, output], device).logits, torch.cat([LOGITS, LOGITS]).to(device))
