"""Records through a model, and what each kind of model answers. Only `options` is imported before a command runs."""
