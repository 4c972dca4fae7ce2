"""Masked language modelling: what is masked, and a head that runs on the masked tokens alone."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import squeezebert_fast
from squeezebert_fast import (
    SqueezeBertConfig,
    SqueezeBertForMaskedLM,
    SqueezeBertModel,
    SqueezeBertTokenizerFast,
)
from squeezebert_fast.backends import cpu_ops
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.patching import linear
from squeezebert_fast.patching.families import word_logits
from squeezebert_fast.training import word_loss
from squeezebert_fast.training.tasks.base import Batch
from squeezebert_fast.training.tasks.masked import PLACES, MaskedLanguageModel
from squeezebert_fast.training.word_loss import word_losses
from tests import family_pairs, model_pairs
from tests.cli_helpers import refuses, succeeds
from tests.helpers import assert_within_rule
from tests.training_helpers import (
    FILLERS,
    PEOPLE,
    SIZES,
    VOCAB,
    assert_same_end,
    log_of,
    save_base,
    state_of,
    summary_of,
    trains,
    write_vocab,
)

QUICK = ["--batch-size", 16, "--learning-rate", 2e-2, "--threads", 1]
CITIES = ("paris", "rome", "london")
UNKNOWN = "xyz qqq"
MODELS = ["ours", "theirs", *(f"{family}ForMaskedLM" for family in family_pairs.FAMILIES)]
"""This package's SqueezeBERT, transformers', and its other families."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SqueezeBertTokenizerFast:
    return SqueezeBertTokenizerFast(write_vocab(tmp_path_factory.mktemp("vocab")))


def config(**fields: Any) -> SqueezeBertConfig:
    return SqueezeBertConfig(**{**SIZES, **fields})


# What is masked


def write_text(path: Path, count: int) -> Path:
    lines = [f"{PEOPLE[at % 3]} lives in {CITIES[at % 3]} and so on" for at in range(count)]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def test_pretraining_learns_to_fill_in_and_can_be_fine_tuned(tmp_path: Path) -> None:
    train, out = write_text(tmp_path / "train.txt", 300), tmp_path / "out"
    sizes = ["--layers", 1, "--hidden-size", 16, "--heads", 2, "--vocab", write_vocab(tmp_path)]
    how = [*sizes, "--max-length", 16, "--epochs", 8, *QUICK]
    said = trains("pretrain", train, "--dev", train, "-o", out, *how)
    best = summary_of(out)["best"]["dev"]
    assert "best dev perplexity" in said
    assert best["perplexity"] < len(VOCAB) / 3
    assert best["perplexity"] == pytest.approx(torch.tensor(best["loss"]).exp().item(), rel=1e-4)
    fills = json.loads(succeeds("fill-mask", "-m", out, "anna [MASK] in paris", "--json", "--top-k", 3))
    assert "lives" in {fill["token"] for fill in fills[0]}
    (tmp_path / "t.tsv").write_text("text\tlabel\ngood\tx\nbad\ty\n")
    trains("finetune", tmp_path / "t.tsv", "-m", out, "-o", tmp_path / "tuned", "--max-steps", 1)


def test_pretraining_resumes_to_the_same_masks(tmp_path: Path) -> None:
    base = save_base(SqueezeBertForMaskedLM, tmp_path / "base")
    train = write_text(tmp_path / "train.txt", 60)
    how = ["-m", base, "--max-length", 16, "--epochs", 2, *QUICK]
    trains("pretrain", train, "-o", tmp_path / "whole", *how)
    trains("pretrain", train, "-o", tmp_path / "again", *how)
    assert_same_end(tmp_path / "whole", tmp_path / "again")


def test_masks_are_15_percent_80_10_10_and_new_in_each_epoch(tokenizer: SqueezeBertTokenizerFast) -> None:
    task = MaskedLanguageModel(seed=0)
    rows = task.encode([" ".join(FILLERS)] * 600, tokenizer, config(), 42)
    batch, again, next_epoch = (task.collate(rows, 0, epoch) for epoch in (0, 0, 1))
    original = torch.full_like(batch["input_ids"], 0)
    for at, row in enumerate(rows):
        original[at, : len(row["input_ids"])] = row["input_ids"]
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert not torch.equal(batch["labels"], next_epoch["labels"])
    chosen = batch["labels"] != -100
    special = original < 5
    assert not (chosen & special).any()
    assert torch.equal(batch["labels"][chosen], original[chosen])
    assert torch.equal(batch["input_ids"][~chosen], original[~chosen])
    assert chosen.sum() / (~special).sum() == pytest.approx(0.15, abs=0.01)
    inputs, labels = batch["input_ids"][chosen], batch["labels"][chosen]
    assert (inputs == tokenizer.mask_token_id).float().mean() == pytest.approx(0.8, abs=0.05)
    other = (inputs != tokenizer.mask_token_id) & (inputs != labels)
    assert other.float().mean() == pytest.approx(0.1, abs=0.04)
    assert (inputs >= 4).all()
    alone = task.collate(rows[3:4], 0, 0)
    length = len(rows[3]["input_ids"])
    assert torch.equal(alone["labels"][0], batch["labels"][3, :length])


def test_blocks_hold_every_token_of_the_text_once(tokenizer: SqueezeBertTokenizerFast) -> None:
    lines = ["it was", "a film and so on that we saw", "good"]
    rows = MaskedLanguageModel(seed=0).encode(lines, tokenizer, config(), 6)
    assert all(len(row["input_ids"]) <= 6 for row in rows)
    words = [index for row in rows for index in row["input_ids"] if index >= 5]
    assert tokenizer.decode(words) == " ".join(lines)


def test_a_text_without_a_known_word_is_refused(tmp_path: Path) -> None:
    base = save_base(SqueezeBertForMaskedLM, tmp_path / "base")
    (tmp_path / "odd.txt").write_text(f"{UNKNOWN}\n" * 3)
    said = "no word of the text is in the vocabulary"
    refuses("pretrain", tmp_path / "odd.txt", "-m", base, "-o", tmp_path / "out", said=said)
    assert not (tmp_path / "out").exists()


# The head on the masked tokens


def model_and_batch(name: str, seed: int = 0) -> tuple[Any, Batch]:
    """A model in eval mode, and a padded batch whose second row has no token to predict."""
    if name in ("ours", "theirs"):
        pair = model_pairs.pair("SqueezeBertForMaskedLM", model_pairs.tiny_config(), seed)
        model: Any = pair[name == "theirs"]
        inputs = model_pairs.inputs_for("SqueezeBertForMaskedLM", model_pairs.tiny_config(), seed, 4, 9)
    else:
        model = family_pairs.model_of(name, None, seed)
        inputs = family_pairs.inputs_for(name, seed, 4, 9)
    inputs.setdefault("token_type_ids", torch.zeros_like(inputs["input_ids"]))
    chosen = torch.rand(4, 9, generator=torch.Generator().manual_seed(seed)) < 0.3
    chosen[0, 0], chosen[1] = True, False
    labels = torch.where(chosen, inputs["input_ids"].flip(0), -100)
    return model, {**inputs, "labels": labels, PLACES: chosen.flatten().nonzero().flatten()}


def of_all_tokens(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, by way of logits of every token, and its gradients."""
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name not in ("labels", PLACES)}
    if type(model).__name__.startswith("DistilBert"):
        del inputs["token_type_ids"]
    logits = model(**inputs).logits.flatten(0, 1)
    return gradients(model, F.cross_entropy(logits, batch["labels"].flatten(), reduction="sum"))


def of_masked_tokens(model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    task = MaskedLanguageModel(0)
    output = task.forward(model, batch)
    assert output["logits"].shape == (len(batch[PLACES]), model.config.vocab_size)
    return gradients(model, task.loss(output, batch))


def gradients(model: nn.Module, loss: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_the_head_on_all_tokens(
    name: str, patched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MANY_ROWS", 1)
    monkeypatch.setattr(linear, "FEW_CHANNELS", 1)
    errors: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(5):
        model, batch = model_and_batch(name, seed)
        exact = of_all_tokens(copy.deepcopy(model).double(), batch)
        same = of_all_tokens(model, batch)
        actual = of_masked_tokens(squeezebert_fast.patch(model) if patched else model, batch)
        assert_within_rule(actual[0], same[0], exact[0], "loss")
        assert actual[1].keys() == same[1].keys()
        floor = 1e-6 * float(max(gradient.abs().max() for gradient in exact[1].values()))
        for parameter, gradient in actual[1].items():
            ours, theirs = (
                float((g.double() - exact[1][parameter]).abs().max()) for g in (gradient, same[1][parameter])
            )
            errors.setdefault(parameter, []).append((ours, theirs, floor))
    # What is left of sums that cancel, as of a key's weight, has a rounding error that is four times another order's
    # for one seed and a quarter of it for the next.
    for parameter, found in errors.items():
        ours, theirs, floor = (statistics.median(values) for values in zip(*found, strict=True))
        assert ours <= 2 * theirs + floor, parameter


@pytest.mark.parametrize("name", MODELS)
def test_a_double_precision_head_on_the_masked_tokens_is_exact(name: str) -> None:
    model, batch = model_and_batch(name, 1)
    exact, actual = of_all_tokens(model.double(), batch), of_masked_tokens(model, batch)
    torch.testing.assert_close(actual[0].double(), exact[0], rtol=1e-6, atol=0)  # its sum is float32
    for parameter, gradient in actual[1].items():
        torch.testing.assert_close(gradient, exact[1][parameter], rtol=1e-4, atol=1e-6, msg=parameter)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_without_a_token_to_predict_has_a_loss_and_gradients_of_zero(name: str) -> None:
    """Of the same parameters as any other: other processes add theirs to them."""
    model, batch = model_and_batch(name)
    _, usual = of_masked_tokens(squeezebert_fast.patch(model), batch)
    none = {**batch, "labels": torch.full_like(batch["labels"], -100), PLACES: batch[PLACES][:0]}
    loss, found = of_masked_tokens(model, none)
    assert loss == 0
    assert found.keys() == usual.keys()
    assert not any(gradient.any() for gradient in found.values())
    assert MaskedLanguageModel(0).count(none) == 0


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_each_rows_own(name: str) -> None:
    model, batch = model_and_batch(name)
    task = MaskedLanguageModel(0)
    with torch.inference_mode():
        answers = task.answers(task.forward(squeezebert_fast.patch(model), batch), batch)
        rows = [{n: v[at : at + 1] for n, v in batch.items() if n != PLACES} for at in range(4)]
        for row, (loss, right, count) in zip(rows, answers, strict=True):
            kept = row["labels"][0] != -100
            inputs = {n: v for n, v in row.items() if n != "labels"}
            if name.startswith("DistilBert"):
                del inputs["token_type_ids"]
            logits, words = model(**inputs).logits[0, kept], row["labels"][0, kept]
            assert loss == pytest.approx(float(F.cross_entropy(logits, words, reduction="sum")), rel=1e-4)
            assert (right, count) == (int((logits.argmax(-1) == words).sum()), int(kept.sum()))


def test_hidden_states_come_along_where_they_are_asked_for() -> None:
    model, batch = model_and_batch("ours")
    task = MaskedLanguageModel(0)
    assert task.forward(model, batch).get("hidden_states") is None
    assert len(task.forward(model, batch, hidden_states=True)["hidden_states"]) == 3


def test_only_a_masked_language_model_has_logits_of_words() -> None:
    with pytest.raises(
        ArgumentError, match=r"model is a SqueezeBertModel, expected a masked language model: "
    ):
        word_logits(SqueezeBertModel(config()), torch.zeros(1, 16))


def test_the_heads_products_run_on_kernels_from_many_rows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    own = cpu_ops.grouped_pointwise_conv_backward

    def counted(grad: Tensor, *arguments: Any) -> Any:
        rows.append(len(grad))
        return own(grad, *arguments)

    monkeypatch.setattr(cpu_ops, "grouped_pointwise_conv_backward", counted)
    torch.manual_seed(0)
    model = squeezebert_fast.patch(SqueezeBertForMaskedLM(config(vocab_size=70, hidden_size=64)))
    for count in (linear.MANY_ROWS - 1, linear.MANY_ROWS):
        word_logits(model, torch.randn(count, 64)).sum().backward()
    assert rows == [linear.MANY_ROWS] * 2  # the decoder, and the dense layer before it
    with torch.autocast("cpu", torch.bfloat16):  # oneDNN's product of bfloat16 takes half the time of ours
        word_logits(model, torch.randn(linear.MANY_ROWS, 64)).float().sum().backward()
    assert len(rows) == 2


# The loss over a vocabulary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_losses_of_words_are_cross_entropy(
    rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(word_loss.NUMBERS_AT_ONCE, "cpu", 3 * 29)
    generator = torch.Generator().manual_seed(rows)
    given = (torch.randn(rows, 29, generator=generator) * 8).to(dtype)
    words = torch.randint(0, 29, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)

    def losses_and_gradient(logits: Tensor, own: bool) -> tuple[Tensor, Tensor]:
        leaf = logits.clone().requires_grad_()
        made = leaf * 1  # as a model's logits are
        losses = word_losses(made, words) if own else F.cross_entropy(made, words, reduction="none")
        (losses * weights.to(losses.dtype)).sum().backward()
        assert leaf.grad is not None
        return losses.detach(), leaf.grad

    exact = losses_and_gradient(given.double(), own=False)
    losses, gradient = losses_and_gradient(given, own=True)
    of_float32 = losses_and_gradient(given.float(), own=False)
    assert_within_rule(losses, of_float32[0], exact[0], "losses")
    assert_within_rule(gradient, of_float32[1].to(dtype), exact[1], "gradient")


def test_the_gradient_of_words_takes_the_place_of_their_logits() -> None:
    leaf = torch.randn(5, 9, requires_grad=True)
    logits = leaf * 1
    loss = word_losses(logits, torch.arange(5)).sum()
    (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    assert gradient.data_ptr() == logits.data_ptr()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_loss_that_is_beyond_all_numbers_stays_so() -> None:
    logits = torch.tensor([[torch.inf, 0.0], [torch.nan, 0.0], [-1e30, 0.0]])
    losses = word_losses(logits, torch.zeros(3, dtype=torch.long))
    assert losses[:2].isnan().all()
    assert losses[2] == 1e30


# Runs


def test_a_step_without_a_token_to_predict_has_a_loss_of_zero(tmp_path: Path) -> None:
    """A block of unknown words alone, in a batch of its own."""
    base = save_base(SqueezeBertForMaskedLM, tmp_path / "base")
    lines = ["it was a film and so on that we saw in paris it", "xyz " * 13]  # 13 tokens and [SEP] each
    (tmp_path / "text.txt").write_text("\n".join(lines))
    how = ["-m", base, "--max-length", 16, "--batch-size", 1, "--log-every", 1, "--threads", 1, "--epochs", 2]
    trains("pretrain", tmp_path / "text.txt", "--dev", tmp_path / "text.txt", "-o", tmp_path / "out", *how)
    losses = [line["loss"] for line in log_of(tmp_path / "out") if "loss" in line]
    assert sorted(loss == 0 for loss in losses) == [False, False, True, True]
    assert all(value.isfinite().all() for value in state_of(tmp_path / "out")["model"].values())
    best = summary_of(tmp_path / "out")["best"]["dev"]
    assert best["perplexity"] == pytest.approx(torch.tensor(best["loss"]).exp().item(), rel=1e-4)
