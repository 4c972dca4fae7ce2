"""The operations of a SqueezeBERT layer, each with its reference in plain PyTorch beside it as the definition."""
