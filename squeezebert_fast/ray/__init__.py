"""Batches of any size on Ray Data: this package's models as stages of a user's own pipeline, and whole jobs.

    predict(dataset, model), embed(dataset, model)    a dataset with the answers beside its columns
    Predict, Embed                                    classes for `map_batches`
    job, running                                      what `squeezebert-fast predict --ray` does

    input file 0 --+                +-- worker --+-- part-00000-000000.jsonl
                   +-- shards of ---+            |   part-00000-000001.jsonl
    input file 1 --+   8192 rows    +-- worker --+-- part-00001-000000.jsonl
    (a reader each)                 (a model each, which writes)

Nothing here imports Ray before it is used. Needs `pip install squeezebert-fast[ray]`.
"""

from __future__ import annotations

from squeezebert_fast.ray.datasets import Embed, Predict, embed, predict

__all__ = ["Embed", "Predict", "embed", "predict"]
