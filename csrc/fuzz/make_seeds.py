"""Writes the inputs that fuzzing starts from, csrc/fuzz/corpus/*/seed_*: folders as the Python package saves them.

PYTHONPATH=. python csrc/fuzz/make_seeds.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tokenizers import AddedToken

import squeezebert_fast
from squeezebert_fast import SqueezeBertConfig, SqueezeBertTokenizer

CORPUS = Path(__file__).with_name("corpus")
TOKENS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "hello",
    "##s",
    "un",
    "##aff",
    "##able",
    "!",
    "a",
    "中",
]
TEXTS = {
    "plain": b"\x06Hello world, unaffable!",
    "pair": b"\xa7 Hello  [MASK] z\xc3\xbcrich\xfea b  aaab[ENT] Foo",
    "marks": "\x0e\u0f71\u0f72\u302e\u0327a\u0301\u1dfb İΣ\u0345".encode(),
    "chinese": "\x1f中文，한국\u3000e\u0301".encode(),
    "cut": b"\x07ab\xe4\xb8",
}
DOCUMENTS = {
    "object": b'{"a": [1, -2, 3.5e2, true, null], "b": {"c": "\\u00e9\\n"}}',
    "twice": b'{"a": 1, "a": 2}',
    "deep": b"[" * 70,
    "large": b"[1e308, 18446744073709551615, 123456789012345678901234567890]",
}


def pack(files: dict[str, bytes]) -> bytes:
    """Files in one text, as support.cpp takes it apart."""
    return b"".join(b"%% " + name.encode() + b"\n" + content + b"\n" for name, content in files.items())[:-1]


def saved(save: object) -> dict[str, bytes]:
    """The files that `save(folder)` writes."""
    with tempfile.TemporaryDirectory() as folder:
        save(folder)  # type: ignore[operator]
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def tokenizer_folders() -> dict[str, dict[str, bytes]]:
    """Of transformers 5 and, older, 4."""
    tokenizer = SqueezeBertTokenizer({token: code for code, token in enumerate(TOKENS)}, never_split=["Foo"])
    tokenizer.add_tokens(["new_tok", AddedToken("Zürich", single_word=True), "hello"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<e>", AddedToken("[NEW]", lstrip=True)]})
    files = saved(tokenizer.save_pretrained)
    older = {
        name: content
        for name, content in files.items()
        if name not in ("tokenizer.json", "tokenizer_config.json")
    }
    lines = {"vocab.txt": "\ufeff".encode() + "\r\n".join([*TOKENS, "", " ", "hello"]).encode()}
    return {"whole": files, "older": older, "lines": lines}


def model_folders() -> dict[str, dict[str, bytes]]:
    """The smallest models of each kind."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(TOKENS), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 12, "type_vocab_size": 2}
    groups = dict.fromkeys(("q", "k", "v", "intermediate", "output"), 2) | {"post_attention": 1}
    config = SqueezeBertConfig(
        **sizes, embedding_size=16, **{f"{name}_groups": n for name, n in groups.items()}
    )
    vocab = {"vocab.txt": "\n".join(TOKENS).encode()}
    classifier = squeezebert_fast.SqueezeBertForSequenceClassification(config).eval()
    words = squeezebert_fast.SqueezeBertForMaskedLM(config).eval()
    folders = {
        "float32": saved(classifier.save_pretrained),
        "words": saved(words.save_pretrained),
        "int8": saved(lambda folder: squeezebert_fast.save_quantized(classifier, folder)),
    }
    wanted = ("config.json", "model.safetensors", "model_int8.safetensors")
    return {
        name: {each: content for each, content in files.items() if each in wanted} | vocab
        for name, files in folders.items()
    }


def write(target: str, inputs: dict[str, bytes]) -> None:
    """Into the corpus."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in inputs.items():
        (folder / f"seed_{name}").write_bytes(content)


if __name__ == "__main__":
    write("text", TEXTS)
    write("json", DOCUMENTS)
    write("tokenizer_files", {name: pack(files) for name, files in tokenizer_folders().items()})
    write("model", {name: pack(files) for name, files in model_folders().items()})
