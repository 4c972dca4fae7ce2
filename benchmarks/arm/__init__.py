"""How fast the kernels would be on ARM, argued without any: docs/arm.md says what each command's figures are worth.

loops       the inner loops on LLVM's models of cores
counts      instructions a token, under emulation; what `make test-arm` holds
projection  both together: milliseconds on phones, projected
known       the same for this machine, and how far off it is
"""
