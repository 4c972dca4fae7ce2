"""A model's life: initialised, tied, resized, trained, checkpointed, copied, pickled, compiled, exported."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import squeezebert_fast.modeling as modeling
from tests.model_pairs import CLASSES, inputs_for, labels_for, pair, tiny_config

DECODER = "cls.predictions.decoder"
WORDS = "transformer.embeddings.word_embeddings.weight"


def masked_lm(**fields: Any) -> modeling.SqueezeBertForMaskedLM:
    torch.manual_seed(0)
    return modeling.SqueezeBertForMaskedLM(tiny_config(**fields)).eval()


def assert_tied(model: modeling.SqueezeBertForMaskedLM) -> None:
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings().bias is model.cls.predictions.bias


# Initialisation


def test_weights_start_as_transformers_starts_them() -> None:
    torch.manual_seed(0)
    config = tiny_config(hidden_size=96, vocab_size=400, initializer_range=0.07, pad_token_id=3)
    model = modeling.SqueezeBertForMaskedLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name.lower():
            assert torch.equal(
                parameter, torch.full_like(parameter, 1.0 if name.endswith("weight") else 0.0)
            ), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.07, rel=0.05), name
            assert abs(parameter.mean().item()) < 0.005, name
    words = model.get_input_embeddings()
    assert words.padding_idx == 3
    assert not words.weight[3].any()
    assert words.weight[2].any()


def test_initialising_again_redraws_and_keeps_the_ties() -> None:
    model = masked_lm()
    before = model.get_input_embeddings().weight.clone()
    model.init_weights()
    assert not torch.equal(model.get_input_embeddings().weight, before)
    assert_tied(model)


# Tying


def test_the_decoder_shares_the_word_embeddings_and_the_bias() -> None:
    model = masked_lm()
    assert_tied(model)
    names = [name for name, _ in model.named_parameters()]
    assert f"{DECODER}.weight" not in names
    assert f"{DECODER}.weight" in model.state_dict()


def test_nothing_is_shared_where_the_configuration_says_so() -> None:
    model, theirs = pair("SqueezeBertForMaskedLM", tiny_config(tie_word_embeddings=False))
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert model.state_dict().keys() == theirs.state_dict().keys()
    inputs = inputs_for("SqueezeBertForMaskedLM", model.config)
    torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, rtol=1e-4, atol=1e-4)


def test_new_input_embeddings_are_tied_on_request() -> None:
    model = masked_lm()
    model.set_input_embeddings(nn.Embedding(61, 24))
    assert model.transformer.get_input_embeddings() is model.get_input_embeddings()
    model.tie_weights()
    assert_tied(model)


# Resizing


@pytest.mark.parametrize(
    ("size", "multiple", "expected"), [(70, None, 70), (50, None, 50), (62, 8, 64), (None, 16, 64)]
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_resized_model_keeps_the_common_words(
    size: int | None, multiple: int | None, expected: int, tied: bool
) -> None:
    ours, theirs = pair("SqueezeBertForMaskedLM", tiny_config(tie_word_embeddings=tied))
    before = copy.deepcopy(ours)
    embeddings = ours.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    theirs.resize_token_embeddings(size, pad_to_multiple_of=multiple)
    assert embeddings is ours.get_input_embeddings()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert (
        ours.config.vocab_size
        == embeddings.num_embeddings
        == ours.get_output_embeddings().out_features
        == expected
    )
    kept = min(expected, 61)
    for name in (WORDS, f"{DECODER}.weight", f"{DECODER}.bias"):
        assert torch.equal(ours.state_dict()[name][:kept], before.state_dict()[name][:kept]), name
        # New rows of both lie at the mean of the old ones, up to a random trace of their spread.
        difference = ours.state_dict()[name][kept:] - theirs.state_dict()[name][kept:]
        assert difference.numel() == 0 or difference.abs().max() < 1e-3, name
    if tied:
        assert_tied(ours)
    inputs = inputs_for("SqueezeBertForMaskedLM", tiny_config(vocab_size=kept))
    assert torch.equal(ours(**inputs).logits[..., :kept], before(**inputs).logits[..., :kept])
    assert ours(
        **inputs, **labels_for("SqueezeBertForMaskedLM", tiny_config(vocab_size=kept), inputs)
    ).loss.isfinite()


def test_new_words_may_start_at_random() -> None:
    model = masked_lm()
    words = model.resize_token_embeddings(2000, mean_resizing=False).weight[61:]
    assert words.std().item() == pytest.approx(0.3, rel=0.05)
    assert not model.cls.predictions.bias[61:].any()


def test_new_words_spread_about_the_mean_by_the_old_words_covariance() -> None:
    model = masked_lm(vocab_size=200)
    old = model.get_input_embeddings().weight.detach().clone()
    new = model.resize_token_embeddings(20000).weight[200:].detach()
    spread = (new - old.mean(0)) / 1e-9**0.5
    torch.testing.assert_close(spread.T @ spread / len(spread), old.T.cov(correction=0), rtol=0.1, atol=0.01)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    model = masked_lm()
    weight = model.get_input_embeddings().weight
    assert model.resize_token_embeddings().weight is weight
    assert model.resize_token_embeddings(61).weight is weight


def test_resizing_keeps_dtype_freezing_and_a_legal_padding_index() -> None:
    model = modeling.SqueezeBertForTokenClassification(tiny_config(pad_token_id=60)).half()
    model.get_input_embeddings().requires_grad_(False)
    words = model.resize_token_embeddings(60)
    assert (words.weight.dtype, words.weight.requires_grad) == (torch.float16, False)
    assert words.padding_idx is model.config.pad_token_id is None
    model.config.validate()


# Training


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_gradient_checkpointing_gives_the_same_gradients(name: str, use_reentrant: bool | None) -> None:
    config = tiny_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    model, _ = pair(name, config)
    inputs = inputs_for(name, config)
    inputs |= labels_for(name, config, inputs)
    calls: list[int] = []
    model.base_model.encoder.layers[1].register_forward_pre_hook(lambda *_: calls.append(1))

    def gradients() -> list[torch.Tensor | None]:
        calls.clear()
        model.zero_grad()
        torch.manual_seed(1)
        outputs = model.train()(**inputs, output_attentions=True)
        outputs[0].sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in model.parameters()]

    plain, plain_calls = gradients(), len(calls)
    options = [] if use_reentrant is None else [{"use_reentrant": use_reentrant}]
    model.gradient_checkpointing_enable(*options)
    assert model.is_gradient_checkpointing
    for expected, actual in zip(plain, gradients(), strict=True):
        assert (expected is None and actual is None) or torch.equal(expected, actual)
    assert (plain_calls, len(calls)) == (1, 2), "a checkpointed layer runs again in the backward pass"
    model.eval()
    calls.clear()
    model(**inputs)
    model.gradient_checkpointing_disable()
    gradients()
    assert len(calls) == 1
    assert not model.is_gradient_checkpointing


def test_dropout_acts_in_training_only() -> None:
    config = tiny_config(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    model, theirs = pair("SqueezeBertModel", config)
    inputs = inputs_for("SqueezeBertModel", config)
    torch.testing.assert_close(model(**inputs)[0], theirs(**inputs)[0], rtol=1e-4, atol=1e-4)
    model.train()
    assert not torch.equal(model(**inputs)[0], model(**inputs)[0])
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert torch.equal(model(**inputs)[0], model(**inputs)[0])


def test_attention_dropout_alone_acts() -> None:
    model, _ = pair("SqueezeBertModel", tiny_config(attention_probs_dropout_prob=0.5))
    inputs = inputs_for("SqueezeBertModel", model.config)
    model.train()
    assert not torch.equal(model(**inputs)[0], model(**inputs)[0])


def test_hooks_fire_on_every_submodule_that_computes() -> None:
    model = masked_lm()
    silent = {name for name, module in model.named_modules() if not isinstance(module, nn.ModuleList)}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: silent.discard(name))
    model(**inputs_for("SqueezeBertForMaskedLM", model.config))
    # Softmax, dropout and product of attention are one operation.
    assert silent == {f"transformer.encoder.layers.{i}.attention.dropout" for i in range(2)}


# Properties and copies


def test_parameters_are_counted_as_transformers_counts_them() -> None:
    for name in CLASSES:
        ours, theirs = pair(name, tiny_config())
        ours.base_model.pooler.requires_grad_(False)
        theirs.base_model.pooler.requires_grad_(False)
        assert ours.num_parameters() == theirs.num_parameters()
        assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True)
        assert ours.num_parameters(exclude_embeddings=True) == theirs.num_parameters(exclude_embeddings=True)


def test_dtype_device_and_base_model() -> None:
    model = masked_lm().to(torch.bfloat16)
    assert (model.dtype, model.device) == (torch.bfloat16, torch.device("cpu"))
    assert model.base_model is model.transformer
    assert model.transformer.base_model is model.transformer


@pytest.mark.parametrize("name", CLASSES)
def test_copies_pickles_and_saved_states_give_the_same_model(name: str) -> None:
    model, _ = pair(name, tiny_config(hidden_act="prelu"))
    inputs = inputs_for(name, model.config)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    loaded = getattr(modeling, name)(model.config).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded):  # noqa: S301
        assert torch.equal(other(**inputs)[0], model(**inputs)[0])
        assert other.get_input_embeddings().weight is not model.get_input_embeddings().weight
        if name == "SqueezeBertForMaskedLM":
            assert_tied(other)


# Compilers


def test_a_model_compiles_in_one_graph() -> None:
    model = masked_lm()
    inputs = inputs_for("SqueezeBertForMaskedLM", model.config)
    inputs |= labels_for("SqueezeBertForMaskedLM", model.config, inputs)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    actual, expected = (
        compiled(**inputs, output_hidden_states=True),
        model(**inputs, output_hidden_states=True),
    )
    assert type(actual) is modeling.MaskedLMOutput
    assert list(actual) == list(expected) == ["loss", "logits", "hidden_states"]
    torch.testing.assert_close(actual.to_tuple(), expected.to_tuple())


def test_a_model_exports_with_a_dynamic_shape() -> None:
    model = masked_lm()
    inputs = inputs_for("SqueezeBertForMaskedLM", model.config, batch=3, tokens=7)
    batch, tokens = torch.export.Dim("batch", min=2, max=9), torch.export.Dim("tokens", min=2, max=19)
    shapes = {name: {0: batch, 1: tokens} for name in inputs}
    exported = torch.export.export(model, (), inputs, dynamic_shapes=shapes)
    other = inputs_for("SqueezeBertForMaskedLM", model.config, seed=1, batch=2, tokens=5)
    actual = exported.module()(**other)
    assert type(actual) is modeling.MaskedLMOutput
    torch.testing.assert_close(actual.logits, model(**other).logits)
