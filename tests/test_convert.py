"""A converted BERT gives BERT's outputs, and a BERT that can't be converted is refused with the reason."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from squeezebert_fast import modeling
from squeezebert_fast.errors import ArgumentError, CheckpointError, ConfigError
from squeezebert_fast.modeling.bert_conversion import TOKENIZER_FILES, convert_bert, convert_directory
from squeezebert_fast.tokenization import SqueezeBertTokenizer, SqueezeBertTokenizerFast
from tests.helpers import assert_within_rule
from tests.minilm import minilm_directory

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 19,
}
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForPreTraining",
    "ForSequenceClassification",
    "ForMultipleChoice",
    "ForTokenClassification",
    "ForQuestionAnswering",
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "fox", "##es"]
SENTENCES = [  # A. Lincoln, 1863
    "Four score and seven years ago our fathers brought forth upon this continent, a new nation.",
    "We are met on a great battle-field of that war.",
    "The world will little note, nor long remember what we say here.",
    "It is rather for us to be here dedicated to the great task remaining before us.",
    "But, in a larger sense, we can not dedicate -- we can not consecrate -- we can not hallow this ground!",
]


def make_bert(head: str = "Model", **fields: Any) -> Any:
    torch.manual_seed(11)
    config = transformers.BertConfig(**{**SIZES, **fields}, attn_implementation="eager")
    model = getattr(transformers, f"Bert{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    make_bert().save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path / "bert"


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def outputs(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(model(**batch).to_tuple())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("hidden_act", ["gelu", "relu"])
def test_a_converted_bert_gives_its_outputs(head: str, hidden_act: str, tmp_path: Path) -> None:
    bert = make_bert(head, hidden_act=hidden_act, num_labels=2 if head == "ForQuestionAnswering" else 3)
    bert.save_pretrained(tmp_path)
    model = convert_bert(tmp_path)
    expected_class = "ForMaskedLM" if head == "ForPreTraining" else head
    assert type(model) is getattr(modeling, f"SqueezeBert{expected_class}")
    torch.manual_seed(2)
    shape = (2, 3, 13) if head == "ForMultipleChoice" else (3, 13)
    mask = torch.ones(shape, dtype=torch.long)
    mask[-1, ..., 8:] = 0
    batch = {"input_ids": torch.randint(0, 61, shape), "attention_mask": mask}
    batch["token_type_ids"] = (torch.arange(13) > 5).long().expand(shape)
    actual, expected, exact = outputs(model, batch), outputs(bert, batch), outputs(bert.double(), batch)
    compared = 1 if head == "ForPreTraining" else len(expected)  # it has a second head, without counterpart
    assert len(actual) == compared
    for a, e, x in zip(actual, expected[:compared], exact[:compared], strict=True):
        assert_within_rule(a, e, x, head, whole_model=True)


def test_the_encoder_of_any_checkpoint_can_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bert = make_bert("ForQuestionAnswering")
    bert.save_pretrained(tmp_path)
    model = convert_bert(tmp_path, model_class=modeling.SqueezeBertModel)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "pooler.dense.weight" in warning.getMessage()
    batch = {"input_ids": torch.arange(7)[None]}
    torch.testing.assert_close(outputs(model, batch)[0], outputs(bert.bert, batch)[0])


def test_every_group_count_of_a_converted_model_is_one(bert: Path) -> None:
    config = convert_bert(bert).config
    for name in ("q", "k", "v", "post_attention", "intermediate", "output"):
        assert getattr(config, f"{name}_groups") == 1
    assert config.extra == {}


def test_an_old_checkpoint_with_gamma_beta_and_position_ids_converts(tmp_path: Path) -> None:
    bert = make_bert("ForMaskedLM")
    state = {"bert.embeddings.position_ids": torch.arange(19)[None]}
    for name, tensor in bert.state_dict().items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        state[name] = tensor
    torch.save(state, tmp_path / "pytorch_model.bin")
    bert.config.architectures = ["BertForMaskedLM"]
    bert.config.save_pretrained(tmp_path)
    batch = {"input_ids": torch.arange(7)[None]}
    torch.testing.assert_close(outputs(convert_bert(tmp_path), batch), outputs(bert, batch))


def test_another_layer_norm_eps_is_converted_with_a_warning(
    bert: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change_config(bert, layer_norm_eps=1e-5)
    assert convert_bert(bert).config.layer_norm_eps == 1e-5
    (warning,) = caplog.records
    assert "layer_norm_eps is 1e-05" in warning.getMessage()


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"model_type": "roberta"}, "'roberta', expected 'bert'"),
        ({"model_type": "squeezebert"}, "already in SqueezeBERT form"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads is {'0': [1]}"),
        ({"embedding_size": 12}, "embedding_size is 12"),
        ({"hidden_act": "nothing"}, "hidden_act is 'nothing'"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
        ({"num_attention_heads": 5}, "num_attention_heads is 5"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "'BertForNextSentencePrediction'"),
        ({"architectures": "odd"}, "'odd'"),
        ({"architectures": [["odd"]]}, "odd"),
    ],
)
def test_what_squeezebert_cannot_express_is_refused(fields: dict[str, Any], part: str, bert: Path) -> None:
    change_config(bert, **fields)
    with pytest.raises(ConfigError) as error:
        convert_bert(bert)
    assert str(bert / "config.json") in str(error.value)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_with_other_shapes_or_tensors_is_refused(bert: Path) -> None:
    change_config(bert, intermediate_size=44)
    with pytest.raises(CheckpointError, match=r"size is 44 in .*encoder.layer.0.intermediate.dense.*\[40\]"):
        convert_bert(bert)
    change_config(bert, intermediate_size=40, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"num_hidden_layers is 3 in .* holds 2 layers"):
        convert_bert(bert)
    state = make_bert().state_dict() | {
        "encoder.layer.0.attention.self.distance_embedding.weight": torch.ones(37, 8)
    }
    (bert / "model.safetensors").unlink()
    torch.save(state, bert / "pytorch_model.bin")
    change_config(bert, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"another architecture.*distance_embedding"):
        convert_bert(bert)


def test_a_converted_directory_is_complete_for_both_libraries(bert: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "squeezebert"
    model = convert_directory(bert, target, dtype="float64")
    assert model.dtype == torch.float64
    assert {path.name for path in target.iterdir()} == {"config.json", "model.safetensors", "vocab.txt"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    batch = dict(tokenizer(["the quick foxes", "the fox"], padding=True, return_tensors="pt"))
    assert batch["input_ids"][0].tolist() == [2, 5, 6, 7, 8, 3]
    theirs = transformers.AutoModel.from_pretrained(target, dtype="auto")
    assert type(theirs) is transformers.SqueezeBertModel
    expected = outputs(make_bert().double(), batch)
    for result in (model, modeling.SqueezeBertModel.from_pretrained(target, dtype="auto"), theirs):
        for actual, exact in zip(outputs(result, batch), expected, strict=True):
            torch.testing.assert_close(actual, exact, rtol=0, atol=1e-12)


def test_tokenizer_files_of_an_older_model_do_not_stay(bert: Path, tmp_path: Path) -> None:
    (tmp_path / "added_tokens.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    convert_directory(bert, tmp_path)
    assert not (tmp_path / "added_tokens.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_is_written_when_a_directory_cannot_be_converted(bert: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bert.iterdir()}
    with pytest.raises(ArgumentError, match="is the source"):
        convert_directory(bert, bert / ".." / "bert")
    assert {path.name: path.read_bytes() for path in bert.iterdir()} == before
    (bert / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer: neither vocab.txt nor tokenizer.json"):
        convert_directory(bert, tmp_path / "target")
    assert not (tmp_path / "target").exists()


# Real weights


@pytest.fixture(scope="module")
def real_batch() -> dict[str, Tensor]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_directory())
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    assert batch["input_ids"].shape[0] == len(SENTENCES)
    return dict(batch)


def real_bert() -> Any:
    return transformers.BertModel.from_pretrained(minilm_directory(), attn_implementation="eager").eval()


def test_converted_minilm_gives_berts_outputs_in_float32_and_float64(real_batch: dict[str, Tensor]) -> None:
    bert = real_bert()
    expected = outputs(bert, real_batch)
    exact = outputs(bert.double(), real_batch)
    for a, e, x in zip(outputs(convert_bert(minilm_directory()), real_batch), expected, exact, strict=True):
        assert_within_rule(a, e, x, "MiniLM", whole_model=True)
    model = convert_bert(minilm_directory(), dtype=torch.float64)
    for a, x in zip(outputs(model, real_batch), exact, strict=True):
        torch.testing.assert_close(a, x, rtol=0, atol=1e-12)


def test_a_converted_minilm_directory_is_tokenized_and_embedded_as_before(
    real_batch: dict[str, Tensor], tmp_path: Path
) -> None:
    convert_directory(minilm_directory(), tmp_path)
    present = {name for name in TOKENIZER_FILES if (minilm_directory() / name).exists()}
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors", *present}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    batch = dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))
    for name, tensor in real_batch.items():
        assert torch.equal(batch[name], tensor), name
        for cls in (SqueezeBertTokenizer, SqueezeBertTokenizerFast):
            ours = cls.from_pretrained(tmp_path)(SENTENCES, padding=True)
            assert ours[name] == tensor.tolist(), (cls, name)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(model, batch), outputs(real_bert(), batch), rtol=0, atol=1e-5)
