"""Classify texts with any SqueezeBERT classifier, patched.

python examples/classify.py squeezebert/squeezebert-mnli "A man eats." "The weather is fine."
"""

import argparse

import torch

from squeezebert_fast import SqueezeBertForSequenceClassification, SqueezeBertTokenizerFast, patch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a directory or the name of a hub repository")
    parser.add_argument("texts", nargs="+")
    chosen = parser.parse_args()

    model = patch(SqueezeBertForSequenceClassification.from_pretrained(chosen.model).eval())
    tokenizer = SqueezeBertTokenizerFast.from_pretrained(chosen.model)
    inputs = tokenizer(chosen.texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        probabilities = model(**inputs).logits.softmax(-1)
    labels = model.config.id2label or {}
    for text, row in zip(chosen.texts, probabilities, strict=True):
        best = int(row.argmax())
        print(f"{labels[best]}  {row[best]:.1%}  {text}")


if __name__ == "__main__":
    main()
