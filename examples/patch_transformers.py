"""Patch a model of transformers in place: the same results, sooner. Needs squeezebert-fast[transformers].

python examples/patch_transformers.py [--layers 12]
"""

import argparse
import copy

import torch
from transformers import SqueezeBertConfig, SqueezeBertModel

from squeezebert_fast import patch
from squeezebert_fast.benchmark import measure, milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    layers = parser.parse_args().layers
    torch.manual_seed(0)
    model = SqueezeBertModel(SqueezeBertConfig(num_hidden_layers=layers)).eval()
    patched = patch(
        copy.deepcopy(model)
    )  # a copy only so that both can be timed: patch(model) is all it takes
    ids = torch.randint(0, model.config.vocab_size, (1, 128))

    with torch.inference_mode():
        difference = (patched(ids).last_hidden_state - model(ids).last_hidden_state).abs().max()
        before, after = measure({"unpatched": lambda: model(ids), "patched": lambda: patched(ids)}, repeats=9)
    print(f"largest difference {difference:.1e}")
    print(f"{milliseconds(before.median)} unpatched, {milliseconds(after.median)} patched")


if __name__ == "__main__":
    main()
