"""SqueezeBERT's tokenizers: WordPiece in pure Python and by the Rust library `tokenizers`."""

from squeezebert_fast.tokenization.batch_encoding import BatchEncoding
from squeezebert_fast.tokenization.fast import SqueezeBertTokenizerFast
from squeezebert_fast.tokenization.wordpiece import SqueezeBertTokenizer

__all__ = ["BatchEncoding", "SqueezeBertTokenizer", "SqueezeBertTokenizerFast"]
