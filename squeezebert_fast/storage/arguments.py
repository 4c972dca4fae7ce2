"""Arguments of transformers' `from_pretrained` that code written for it passes, and what becomes of them here.

One that can't change a result is accepted and does nothing. One that would is refused where it asks for something.
"""

from __future__ import annotations

from typing import Any

import torch

from squeezebert_fast.errors import ArgumentError, check_among

IDLE = {
    # there is no code to run, and no file is ever unpickled into more than tensors
    "trust_remote_code",
    "code_revision",
    "weights_only",
    # how transformers saves memory or time: loading here copies each tensor once, from a mapped file
    "low_cpu_mem_usage",
    "offload_state_dict",
    "disable_mmap",
    "_fast_init",
    # downloads are huggingface_hub's, which takes these from the environment or not at all
    "proxies",
    "resume_download",
    "mirror",
    "user_agent",
    "tqdm_class",
    # what transformers' own callers pass along
    "_commit_hash",
    "_from_auto",
    "_from_pipeline",
    "adapter_kwargs",
    "adapter_name",
    "_adapter_model_path",
    # kernels from the hub, experts and generation, which this model has none of
    "allow_all_kernels",
    "kernel_config",
    "use_kernels",
    "experts_implementation",
    "generation_config",
}
REFUSED = {
    "quantization_config": "save_quantized and patch(precision='int8') quantize",
    "load_in_8bit": "save_quantized and patch(precision='int8') quantize",
    "load_in_4bit": "save_quantized and patch(precision='int8') quantize",
    "variant": "give the directory or revision whose files have their plain names",
    "gguf_file": "give a checkpoint of safetensors",
    "from_tf": "convert the checkpoint with transformers 4",
    "from_flax": "convert the checkpoint with transformers 4",
    "key_mapping": "rename the tensors in the file",
    "fusion_config": "patch(model) fuses",
    "distributed_config": "wrap the model after it is loaded",
    "device_mesh": "wrap the model after it is loaded",
    "tp_plan": "wrap the model after it is loaded",
    "tp_size": "wrap the model after it is loaded",
}
# Where an upload is made, how adapters and older formats are named, and by what function tensors are written.
IDLE_IN_SAVING = {"save_function", "save_peft_format", "save_original_format", "use_temp_dir"}
REFUSED_IN_SAVING: dict[str, tuple[Any, str]] = {
    "safe_serialization": (True, "torch.save(model.state_dict(), 'pytorch_model.bin') writes a pickled file"),
    "variant": (None, "give a directory or revision of its own"),
    "distributed_checkpoint": (False, "pass state_dict, gathered"),
    "tags": (None, "write them into the repository's README.md"),
}
UPLOADING = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")
ATTENTIONS = ("eager", "sdpa")  # the same results up to rounding, so that either name will do


def without_idle(
    arguments: dict[str, Any], token: str | bool | None = None
) -> tuple[dict[str, Any], str | bool | None]:
    """`arguments` without those that do nothing, and the token, which `use_auth_token` named once.

    Raises ArgumentError for one that asks for what can't be had here.
    """
    rest = {name: value for name, value in arguments.items() if name not in IDLE}
    for name, remedy in REFUSED.items():
        value = rest.pop(name, None)
        if value:
            raise ArgumentError(f"{name} is {value!r}, which loading can't do: {remedy}")
    attention = rest.pop("attn_implementation", None)
    if attention is not None:
        check_among("attn_implementation", attention, ATTENTIONS)
    older = rest.pop("use_auth_token", None)
    return rest, older if token is None else token


def for_upload(arguments: dict[str, Any]) -> dict[str, Any]:
    """`save_pretrained`'s arguments that an upload takes, without those that do nothing.

    Raises ArgumentError for one that asks for what can't be had here, or that doesn't exist.
    """
    rest = {name: value for name, value in arguments.items() if name not in IDLE_IN_SAVING}
    for name, (accepted, remedy) in REFUSED_IN_SAVING.items():
        value = rest.pop(name, accepted)
        if value != accepted:
            raise ArgumentError(f"{name} is {value!r}, which saving can't do: {remedy}")
    for name in rest:
        if name not in UPLOADING:
            raise ArgumentError(f"{name} is no argument of save_pretrained or push_to_hub")
    return rest


def dtype_of(
    dtype: torch.dtype | str | None, torch_dtype: torch.dtype | str | None
) -> torch.dtype | str | None:
    """The dtype, which `torch_dtype` named before transformers 4.56. Raises ArgumentError for two of them."""
    names = {str(given).removeprefix("torch.") for given in (dtype, torch_dtype) if given is not None}
    if len(names) > 1:
        raise ArgumentError(f"dtype is {dtype!r} and torch_dtype {torch_dtype!r}, expected one of the two")
    return torch_dtype if dtype is None else dtype
