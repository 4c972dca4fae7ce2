"""SqueezeBERT (arXiv 2006.11316) with custom kernels, and everything around it.

>>> import squeezebert_fast
>>> model = squeezebert_fast.SqueezeBertModel.from_pretrained("squeezebert/squeezebert-uncased")
>>> tokenizer = squeezebert_fast.SqueezeBertTokenizerFast.from_pretrained("squeezebert/squeezebert-uncased")
>>> model = squeezebert_fast.patch(model)
>>> model(**tokenizer(["A sentence.", "Another one."], padding=True, return_tensors="pt"))
"""

from squeezebert_fast import ops
from squeezebert_fast.configuration import SqueezeBertConfig
from squeezebert_fast.diagnostics import doctor
from squeezebert_fast.errors import (
    ArgumentError,
    CheckpointError,
    ConfigError,
    SqueezeBertFastError,
    TokenizerError,
    UnsupportedError,
)
from squeezebert_fast.modeling import (
    SqueezeBertForMaskedLM,
    SqueezeBertForMultipleChoice,
    SqueezeBertForQuestionAnswering,
    SqueezeBertForSequenceClassification,
    SqueezeBertForTokenClassification,
    SqueezeBertModel,
    SqueezeBertPreTrainedModel,
)
from squeezebert_fast.patching import Explanation, explain, patch, unpatch
from squeezebert_fast.version import __version__

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "ConfigError",
    "Explanation",
    "SqueezeBertConfig",
    "SqueezeBertFastError",
    "SqueezeBertForMaskedLM",
    "SqueezeBertForMultipleChoice",
    "SqueezeBertForQuestionAnswering",
    "SqueezeBertForSequenceClassification",
    "SqueezeBertForTokenClassification",
    "SqueezeBertModel",
    "SqueezeBertPreTrainedModel",
    "TokenizerError",
    "UnsupportedError",
    "__version__",
    "doctor",
    "explain",
    "ops",
    "patch",
    "unpatch",
]
