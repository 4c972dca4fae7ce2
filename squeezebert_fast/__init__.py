"""SqueezeBERT with custom kernels."""
