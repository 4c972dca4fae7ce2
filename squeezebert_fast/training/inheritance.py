"""What a new student gets from its teacher: a part of its vocabulary, and parameters to start with.

Where the student's convolutions have more groups than the teacher's, each group gets the block of weights between
its own channels:

    teacher, 1 group      student, 2 groups
    [ A  B ]              [ A  . ]
    [ C  D ]       ->     [ .  D ]
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from squeezebert_fast.errors import ArgumentError
from squeezebert_fast.modeling import SqueezeBertPreTrainedModel
from squeezebert_fast.pretrained import Tokenizer
from squeezebert_fast.tokenization import SqueezeBertTokenizerFast

LAYER = re.compile(r"(.*encoder\.layers\.)(\d+)(\..*)")
CONTINUATION = "##"
UNUSED = re.compile(r"\[unused\d+\]")


def smaller_vocabulary(
    tokenizer: SqueezeBertTokenizerFast, used: Collection[int], size: int
) -> SqueezeBertTokenizerFast:
    """A tokenizer with `size` of the tokens of `tokenizer`, in the same order.

    It keeps special and added tokens, every single character, so that it can spell whatever `tokenizer` can, and
    the ids `used`, so that it cuts texts of nothing but these as `tokenizer` does; then the first of the others,
    which in BERT's vocabulary are the most frequent. Raises ArgumentError where `size` is less than what it must
    keep, or more than there is.
    """
    ids = tokenizer.get_vocab()
    kept = {ids[token] for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())}
    kept |= {index for token, index in ids.items() if len(token.removeprefix(CONTINUATION)) == 1}
    kept |= set(used)
    others = sorted(
        index for token, index in ids.items() if index not in kept and not UNUSED.fullmatch(token)
    )
    if not len(kept) <= size <= len(kept) + len(others):
        raise ArgumentError(
            f"vocab_size is {size}, expected from {len(kept)}, which the training data and single characters need, "
            f"to {len(kept) + len(others)}"
        )
    kept |= set(others[: size - len(kept)])
    in_order = sorted((index, token) for token, index in ids.items() if index in kept)
    return tokenizer.with_vocab({token: place for place, (_, token) in enumerate(in_order)})


def shared_words(tokenizer: Tokenizer, other: Tokenizer) -> dict[int, int]:
    """From the ids of `tokenizer` to those of the same tokens in `other`."""
    theirs = other.get_vocab()
    return {index: theirs[token] for token, index in tokenizer.get_vocab().items() if token in theirs}


@torch.no_grad()
def copy_from_teacher(
    student: SqueezeBertPreTrainedModel, teacher: nn.Module, words: Mapping[int, int]
) -> int:
    """Start a student with what fits of the teacher's parameters of the same name; returns how many numbers that was.

    Its layers get the teacher's at even distances, the last one the last. words: from a token's id to the
    teacher's; tokens that the teacher lacks stay random. Heads stay as they are: their labels may be in another
    order. Both models on one device, with their own weights: not int8, of which only what has a float form is copied.
    """
    theirs = {name: p for name, p in teacher.named_parameters() if not p.is_meta}
    depth = len({match[2] for name, _ in teacher.named_parameters() if (match := LAYER.match(name))})
    layers = student.config.num_hidden_layers
    copied = 0
    for name, parameter in student.named_parameters():
        source = name
        if match := LAYER.match(name):
            source = (
                f"{match[1]}{(int(match[2]) + 1) * depth // layers - 1}{match[3]}" if depth >= layers else ""
            )
        elif ".embeddings." not in name and ".pooler." not in name:
            continue
        if source not in theirs:
            continue
        weight, module = theirs[source], student.get_submodule(name.rpartition(".")[0])
        if name.endswith("word_embeddings.weight"):
            if weight.shape[1:] == parameter.shape[1:] and words:
                parameter[list(words)] = weight[list(words.values())]
                copied += len(words) * parameter.shape[1]
            continue
        blocks = diagonal_blocks(weight, parameter, getattr(module, "groups", 1))
        if blocks is not None:
            parameter.copy_(blocks)
            copied += parameter.numel()
    return copied


def diagonal_blocks(weight: Tensor, like: Tensor, groups: int) -> Tensor | None:
    """The part of `weight` that a convolution of more groups keeps; the whole of it if the shape is the same.

    weight: [out channels, in channels per group, ...], of fewer groups. like: of the result's shape, which has
    `groups` groups. None where that isn't a part of `weight`.
    """
    if weight.shape == like.shape:
        return weight
    if weight.dim() < 2 or weight.shape[:1] + weight.shape[2:] != like.shape[:1] + like.shape[2:]:
        return None
    width = like.shape[1]
    ratio, rest = divmod(weight.shape[1], width)
    if rest or ratio < 2 or groups % ratio:
        return None
    rows = weight.unflatten(0, (groups, -1)).unflatten(2, (ratio, width))  # [groups, out, ratio, in, ...]
    return torch.cat([rows[group, :, group % ratio] for group in range(groups)])
