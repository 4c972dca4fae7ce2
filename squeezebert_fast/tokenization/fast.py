"""`SqueezeBertTokenizerFast`: the same tokenization by the Rust library `tokenizers`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models

from squeezebert_fast.errors import TokenizerError
from squeezebert_fast.tokenization.arguments import Text
from squeezebert_fast.tokenization.base import TokenizerBase
from squeezebert_fast.tokenization.lexicon import Lexicon
from squeezebert_fast.tokenization.sequences import Span
from squeezebert_fast.tokenization.training import bert_pipeline


class RustSequence:
    """A token sequence that takes its lists from a Rust encoding when they are asked for."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding

    @cached_property
    def ids(self) -> list[int]:
        """Token ids."""
        return self._encoding.ids

    @cached_property
    def tokens(self) -> list[str]:
        """The tokens as strings."""
        return self._encoding.tokens

    @cached_property
    def offsets(self) -> list[Span]:
        """The characters of each token."""
        return self._encoding.offsets

    @cached_property
    def word_ids(self) -> list[int]:
        """The word of each token."""
        return [
            word for word in self._encoding.word_ids if word is not None
        ]  # None is for special tokens only


class RustEngine:
    """Texts to token sequences by `Tokenizer.encode_batch`, without special tokens, truncation or padding.

    Those are applied to the rows afterwards. transformers sets them on the Rust tokenizer for each call
    instead, which is why its tokenizers fail ("Already borrowed") when threads share one; here nothing
    changes once it is built.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[Text], is_split: bool) -> list[RustSequence]:
        """The token sequence of each text, texts in parallel."""
        try:
            encodings = self.tokenizer.encode_batch(
                list(texts), is_pretokenized=is_split, add_special_tokens=False
            )
        except Exception as error:
            raise TokenizerError(f"tokenizers can't encode the batch: {error}") from error
        return [RustSequence(encoding) for encoding in encodings]


class SqueezeBertTokenizerFast(TokenizerBase):
    """Tokenizes by the Rust library `tokenizers`, in parallel; with offsets and word ids.

    Safe to use from several threads at once. See `TokenizerBase` for the arguments and methods.

    Source: transformers' `SqueezeBertTokenizer`.

    >>> tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
    >>> tokenizer("Lovely", return_offsets_mapping=True)["offset_mapping"]
    [(0, 0), (0, 6), (0, 0)]
    """

    is_fast = True
    _engine: RustEngine

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The Rust tokenizer, without post-processing: changes to it bypass this class."""
        return self._engine.tokenizer

    def _build_engine(self, lexicon: Lexicon) -> RustEngine:
        vocab = lexicon.vocab | _unused_ids(lexicon)
        tokenizer = bert_pipeline(
            models.WordPiece(vocab, unk_token=self._token("unk_token")),
            lower_case=self.do_lower_case,
            strip_accents=self.strip_accents,
            split_cjk=self.tokenize_chinese_chars,
        )
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_tokens([_as_found(token, lexicon) for token in lexicon.added.values()])
        tokenizer.encode_special_tokens = self.split_special_tokens
        return RustEngine(tokenizer)


def _as_found(token: AddedToken, lexicon: Lexicon) -> AddedToken:
    flags = {"single_word": token.single_word, "lstrip": token.lstrip, "rstrip": token.rstrip}
    normalized = lexicon.is_normalized(token)
    return AddedToken(token.content, special=token.special, normalized=normalized, **flags)


def _unused_ids(lexicon: Lexicon) -> dict[str, int]:
    """Names for ids without a token: the Rust library counts tokens to find the next free id.

    No text has them, since no word holds whitespace.
    """
    taken = set(lexicon.vocab.values())
    unused = [code for code in range(lexicon.vocab_size) if code not in taken]
    prefix = "\n" * max(map(len, lexicon.vocab)) if unused else ""  # longer than every token
    return {f"{prefix}{code}": code for code in unused}
