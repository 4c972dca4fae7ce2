"""A model that answers requests over HTTP, on Ray Serve. Only `options` is imported before the command runs."""
