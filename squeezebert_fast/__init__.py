"""SqueezeBERT (arXiv 2006.11316) with custom kernels, and everything around it.

>>> from squeezebert_fast import SENTIMENT_MODEL, SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast, patch
>>> tokenizer = SqueezeBertTokenizerFast.from_pretrained(SENTIMENT_MODEL)
>>> model = patch(SqueezeBertForSequenceClassification.from_pretrained(SENTIMENT_MODEL, dequantize=True))
>>> model(**tokenizer(["A lovely film.", "Too long."], padding=True, return_tensors="pt")).logits.argmax(-1)
tensor([1, 0])
"""

from importlib import import_module
from typing import TYPE_CHECKING

from squeezebert_fast.errors import (
    ArgumentError,
    CheckpointError,
    ConfigError,
    InputError,
    SqueezeBertFastError,
    StorageError,
    TokenizerError,
    TrainingError,
    TrainingInterrupted,
    UnsupportedError,
)
from squeezebert_fast.version import __version__

__all__ = [
    "SENTIMENT_MODEL",
    "ArgumentError",
    "BatchEncoding",
    "CheckpointError",
    "ConfigError",
    "Explanation",
    "InputError",
    "SqueezeBertConfig",
    "SqueezeBertFastError",
    "SqueezeBertForMaskedLM",
    "SqueezeBertForMultipleChoice",
    "SqueezeBertForQuestionAnswering",
    "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification",
    "SqueezeBertModel",
    "SqueezeBertPreTrainedModel",
    "SqueezeBertTokenizer",
    "SqueezeBertTokenizerFast",
    "StorageError",
    "TokenizerError",
    "TrainingError",
    "TrainingInterrupted",
    "UnsupportedError",
    "__version__",
    "convert_bert",
    "convert_directory",
    "cuda_graphs",
    "doctor",
    "explain",
    "load_quantized",
    "mean_pool",
    "ops",
    "patch",
    "save_quantized",
    "unpatch",
]

if TYPE_CHECKING:
    from squeezebert_fast import ops
    from squeezebert_fast.configuration import SqueezeBertConfig
    from squeezebert_fast.diagnostics import doctor
    from squeezebert_fast.modeling import (
        SqueezeBertForMaskedLM,
        SqueezeBertForMultipleChoice,
        SqueezeBertForQuestionAnswering,
        SqueezeBertForSequenceClassification,
        SqueezeBertForTokenClassification,
        SqueezeBertModel,
        SqueezeBertPreTrainedModel,
    )
    from squeezebert_fast.modeling.bert_conversion import convert_bert, convert_directory
    from squeezebert_fast.patching.cuda_graphs import cuda_graphs
    from squeezebert_fast.patching.explain import Explanation, explain
    from squeezebert_fast.patching.int8_checkpoint import load_quantized, save_quantized
    from squeezebert_fast.patching.patch import patch, unpatch
    from squeezebert_fast.sentence import mean_pool
    from squeezebert_fast.shipped import SENTIMENT_MODEL
    from squeezebert_fast.tokenization import BatchEncoding, SqueezeBertTokenizer, SqueezeBertTokenizerFast
else:
    # Importing torch takes seconds, which `squeezebert-fast --help` must not: what needs it is imported when
    # it is first used.
    _MODULES = {
        "configuration": ("SqueezeBertConfig",),
        "diagnostics": ("doctor",),
        "modeling.bert_conversion": ("convert_bert", "convert_directory"),
        "patching.int8_checkpoint": ("load_quantized", "save_quantized"),
        "modeling": (
            "SqueezeBertForMaskedLM",
            "SqueezeBertForMultipleChoice",
            "SqueezeBertForQuestionAnswering",
            "SqueezeBertForSequenceClassification",
            "SqueezeBertForTokenClassification",
            "SqueezeBertModel",
            "SqueezeBertPreTrainedModel",
        ),
        "patching.cuda_graphs": ("cuda_graphs",),
        "patching.explain": ("Explanation", "explain"),
        "patching.patch": ("patch", "unpatch"),
        "sentence": ("mean_pool",),
        "shipped": ("SENTIMENT_MODEL",),
        "tokenization": ("BatchEncoding", "SqueezeBertTokenizer", "SqueezeBertTokenizerFast"),
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name == "ops":
            return import_module("squeezebert_fast.ops")
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'squeezebert_fast' has no attribute {name!r}")
        value = getattr(import_module(f"squeezebert_fast.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
