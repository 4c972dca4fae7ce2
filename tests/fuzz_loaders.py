"""Fuzzes the Python package's loaders: whatever a folder holds, they end in one of the package's own errors.

    PYTHONPATH=.:ATHERIS python -m tests.fuzz_loaders --seconds 60

Needs atheris (Google's libFuzzer for Python; `make fuzz` installs it). Starts from csrc/fuzz/corpus/, the C++
runtime's; `tests/test_fuzz_loaders.py` gives the loaders those inputs and seeded mutations of them, without atheris.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from squeezebert_fast.errors import SqueezeBertFastError

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "csrc" / "fuzz" / "corpus"
FOUND = ROOT / "build" / "fuzz"
# Names that csrc/fuzz/ knows, so that no input writes elsewhere.
NAMES = {
    *("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("config.json", "model.safetensors", "model_int8.safetensors", "modules.json", "1_Pooling/config.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
}
MARK = b"%% "


def unpack(content: bytes) -> dict[str, bytes]:
    """Files in one text, each below a line "%% NAME", as csrc/fuzz/support.cpp takes it apart."""
    parts = (b"\n" + content).split(b"\n" + MARK)[1:]
    files = (part.partition(b"\n") for part in parts)
    named = {name.decode("utf-8", "replace"): body for name, _, body in files}
    return {name: body for name, body in named.items() if name in NAMES}


def write(folder: Path, files: dict[str, bytes]) -> None:
    """The files, and no others, into a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    for name, body in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(body)


def load_tokenizer(folder: Path) -> None:
    """Both tokenizers, and a text by each."""
    from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast

    for kind in (SqueezeBertTokenizer, SqueezeBertTokenizerFast):
        tokenizer = kind.from_pretrained(folder)
        tokenizer(" Hello[MASK] unaffable <e> new_tok [NEW]!", "and that, 中é", truncation=True, max_length=8)


def load_model(folder: Path) -> None:
    """The configuration, the weights and a forward, as `predict` takes them."""
    import torch

    from squeezebert_fast import SqueezeBertForMaskedLM, SqueezeBertForSequenceClassification

    failures = []
    for kind in (SqueezeBertForSequenceClassification, SqueezeBertForMaskedLM):
        try:
            model = kind.from_pretrained(folder)
            with torch.inference_mode():
                model(torch.tensor([[0, 1, 2]]))
        except SqueezeBertFastError as error:
            failures.append(error)
    if len(failures) == 2:
        raise failures[0]


TARGETS: dict[str, Callable[[Path], None]] = {"tokenizer_files": load_tokenizer, "model": load_model}


def try_loading(target: str, folder: Path, content: bytes) -> bool:
    """Whether an input's files load; raises what isn't one of the package's errors."""
    write(folder, unpack(content))
    try:
        TARGETS[target](folder)
    except SqueezeBertFastError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--target", choices=TARGETS, required=True)
    arguments = parser.parse_args()
    import atheris

    logging.disable(logging.CRITICAL)  # warnings of every odd vocabulary
    with atheris.instrument_imports(include=["squeezebert_fast"]):
        for name in ("tokenization", "storage", "loading", "modeling", "configuration"):
            importlib.import_module(f"squeezebert_fast.{name}")
    grown, found = FOUND / "corpus_python" / arguments.target, FOUND / "found"
    for folder in (grown, found):
        folder.mkdir(parents=True, exist_ok=True)

    def try_one(content: bytes, folder: Path) -> None:
        try_loading(arguments.target, folder, content)

    options = [f"-max_total_time={arguments.seconds}", "-max_len=32768", "-timeout=60", "-rss_limit_mb=4096"]
    options += [
        f"-artifact_prefix={found}/python-{arguments.target}-",
        f"-dict={CORPUS.parent / 'words.dict'}",
    ]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        atheris.Setup(
            [sys.argv[0], *options, str(grown), str(CORPUS / arguments.target)],
            lambda content: try_one(content, Path(name)),
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
