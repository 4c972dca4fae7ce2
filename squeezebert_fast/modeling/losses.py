"""The losses of the task heads: transformers' formulas, with labels that PyTorch would broadcast refused."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.modeling.inputs import INDEX_DTYPES, explain_index_error

IGNORED_LABEL = -100


def cross_entropy(
    logits: Tensor, labels: Tensor, name: str = "labels", ignored: int = IGNORED_LABEL
) -> Tensor:
    """Mean cross entropy over the labels that aren't `ignored`.

    logits: [..., classes]; labels: int64 or int32, one for each row of `logits`, shaped alike, flat, or with
    an axis of 1 at the end. Raises ArgumentError, naming the argument `name`.
    """
    rows, classes = logits.reshape(-1, logits.shape[-1]), logits.shape[-1]
    fits = (
        labels.numel() == rows.shape[0]
        and labels.dim() > 0
        and labels.shape[0] in (logits.shape[0], rows.shape[0])
    )
    if not fits:
        raise ArgumentError(f"{name} has shape {list(labels.shape)}, expected {list(logits.shape[:-1])}")
    if labels.dtype not in INDEX_DTYPES:
        raise ArgumentError(
            f"{name} is a {labels.dtype} tensor, expected an int64 or int32 tensor of class indices"
        )
    targets = labels.reshape(-1).long()
    try:
        return F.cross_entropy(rows, targets, ignore_index=ignored)
    except IndexError as error:
        outside = explain_index_error(name, targets[targets != ignored], classes, "number of classes")
        raise outside or error from None


def sequence_loss(config: SqueezeBertConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of a sequence classifier, by `config.problem_type`.

    logits: [batch, num_labels]; labels: class indices [batch] for single_label_classification, otherwise
    numbers shaped like `logits` ([batch] will do where num_labels is 1). Where problem_type is None the
    labels decide, and the configuration keeps the answer, as in transformers, so that a saved model tells
    pipelines how to read its logits.
    """
    if config.problem_type is None:
        config.problem_type = _infer_problem_type(logits.shape[-1], labels.dtype)
    if config.problem_type == "single_label_classification":
        return cross_entropy(logits, labels)
    if labels.shape != logits.shape and (logits.shape[-1] != 1 or labels.numel() != logits.numel()):
        raise ArgumentError(f"labels has shape {list(labels.shape)}, expected {list(logits.shape)}")
    # The losses' backward passes want one dtype.
    dtype = torch.promote_types(logits.dtype, labels.dtype)
    predicted, targets = logits.to(dtype), labels.reshape(logits.shape).to(dtype)
    if config.problem_type == "regression":
        return F.mse_loss(predicted, targets)
    return F.binary_cross_entropy_with_logits(predicted, targets)


def _infer_problem_type(num_labels: int, dtype: torch.dtype) -> str:
    if num_labels == 1:
        return "regression"
    return "single_label_classification" if dtype in INDEX_DTYPES else "multi_label_classification"


def span_loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Mean of the two cross entropies of an answer's first and last token.

    logits: [batch, tokens]; starts, ends: int64 or int32 [batch] or [batch, 1]. Positions past the last token
    are ignored and negative ones count as 0, as in transformers.
    """
    tokens = start_logits.shape[1]
    start_loss = cross_entropy(start_logits, starts.clamp(0, tokens), "start_positions", ignored=tokens)
    end_loss = cross_entropy(end_logits, ends.clamp(0, tokens), "end_positions", ignored=tokens)
    return (start_loss + end_loss) / 2
