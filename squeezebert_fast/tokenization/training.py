"""Training a WordPiece vocabulary, by the Rust library `tokenizers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import as_index
from squeezebert_fast.tokenization.decoding import CONTINUATION


def bert_pipeline(
    model: models.Model, *, lower_case: bool, strip_accents: bool | None, split_cjk: bool
) -> Tokenizer:
    """A Rust tokenizer that cuts texts as BERT does, around this model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_cjk, strip_accents=strip_accents, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def train_vocabulary(
    texts: Iterable[str] | Iterable[Sequence[str]],
    vocab_size: int,
    length: int | None,
    special: Sequence[AddedToken],
    options: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> dict[str, int]:
    """A vocabulary of texts (or batches of them): the special tokens first, then pieces of words.

    options: of the tokenizer, which say how texts become words. trainer: further arguments of
    `WordPieceTrainer`. Raises `TokenizerError` if it refuses them, or if a text isn't one.
    """
    if trainer.get("continuing_subword_prefix", CONTINUATION) != CONTINUATION:
        raise TokenizerError(
            f"continuing_subword_prefix is {trainer['continuing_subword_prefix']!r}; expected {CONTINUATION!r}"
        )
    rust = bert_pipeline(
        models.WordPiece(unk_token=options["unk_token"]),
        lower_case=options["do_lower_case"],
        strip_accents=options["strip_accents"],
        split_cjk=options["tokenize_chinese_chars"],
    )
    size = as_index("vocab_size", vocab_size, minimum=1)
    try:
        made = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(special), **trainer)
        rust.train_from_iterator(texts, trainer=made, length=length)
    except TypeError as error:
        raise TokenizerError(f"a vocabulary can't be trained so: {error}") from error
    return rust.get_vocab(with_added_tokens=False)
