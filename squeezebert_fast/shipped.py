"""The model that comes with the package."""

from pathlib import Path

SENTIMENT_MODEL = Path(__file__).parent / "models" / "sentiment"
"""A directory for `from_pretrained`: a SqueezeBertForSequenceClassification in int8, and its tokenizer, that tells
positive from negative sentences in English. The README.md in it is its model card.

>>> model = squeezebert_fast.load_quantized(SENTIMENT_MODEL)
>>> model.config.id2label
{0: 'negative', 1: 'positive'}
"""
