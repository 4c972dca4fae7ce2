"""The answers of `predict`, by the kind of model that gives them. Only `options` is imported before a command runs."""
