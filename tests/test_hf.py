"""Folders in and out: round trips to the bit, both formats, and every way a folder can be wrong."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from jaxir import Retriever
from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.data.tokenizer import train_tokenizer
from jaxir.errors import UserError
from jaxir.models.dual_encoder import abstract_params
from jaxir.models.hf import read_model, read_tokenizer, write_model
from jaxir.models.trained import match_tokenizer, read_folder

FIXTURES = Path(__file__).parent / "fixtures"
MBERT = Path(__file__).parents[1].parent / "shared/data/tokenizers/mbert-cased-vocab.txt"
PREFIXES = {"query_prefix": "Query: ", "passage_prefix": "Absatz: „"}


def random_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), abstract_params(config)
    )


def equal(a, b):
    return jax.tree.all(
        jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    )


@pytest.fixture
def folder(tmp_path):
    """A copy of the LaBSE-shaped folder, to be spoilt."""
    return shutil.copytree(FIXTURES / "labse", tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("architecture", ["xlm-roberta", "xlm-roberta-xl", "bert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(("dense", "projection"), [(0, 0), (10, 0), (0, 6), (10, 6)])
def test_round_trip_is_bit_equal(architecture, pooling, dense, projection, tmp_path):
    encoder = EncoderConfig(architecture, 40, 16, 3, 2, 24, 20, 2, 0, 1e-6, 0.2, 0.3)
    config = DualEncoderConfig(encoder, pooling, dense, projection, normalize=dense > 0)
    params = random_params(config)
    tokenizer = read_tokenizer(FIXTURES / "labse")
    write_model(tmp_path / "a", config, params, tokenizer, **PREFIXES, max_tokens=12)
    model = read_model(tmp_path / "a")
    assert equal(model.params, params)
    assert model.config == config
    assert (model.query_prefix, model.passage_prefix) == tuple(PREFIXES.values())
    assert (model.max_tokens, model.folder) == (12, tmp_path / "a")
    back = read_tokenizer(tmp_path / "a")
    assert back("abc dab")["input_ids"] == tokenizer("abc dab")["input_ids"]
    write_model(tmp_path / "b", model.config, model.params, back, **PREFIXES, max_tokens=12)
    for file in ("model.safetensors", "config.json", "modules.json", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("name", ["xlm_roberta", "xlm_roberta_xl", "bert", "labse"])
def test_tensors_keep_transformers_names(name, tmp_path):
    """What is written is what was read, under the same names, but for poolers and heads."""
    model, tokenizer = read_model(FIXTURES / name), read_tokenizer(FIXTURES / "labse")
    write_model(tmp_path / "out", model.config, model.params, tokenizer, **PREFIXES, max_tokens=9)
    written = load_file(tmp_path / "out/model.safetensors")
    read = {}
    for file in (FIXTURES / name).glob("*.safetensors"):
        read |= load_file(file)
    read = {key.removeprefix("roberta.").removeprefix("bert."): read[key] for key in read}
    assert {
        key for key in read if key not in written and not key.startswith(("pooler", "cls", "lm"))
    } == set()
    for key in written:
        np.testing.assert_array_equal(written[key], read[key])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened(folder, dtype):
    weights = load_file(folder / "model.safetensors")
    save_file({k: v.astype(dtype) for k, v in weights.items()}, folder / "model.safetensors")
    params = read_model(folder).params
    exact = read_model(FIXTURES / "labse").params
    rounded = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), exact["encoder"])
    assert equal(params["encoder"], rounded)


def test_old_names_and_old_files(folder):
    """gamma and beta of TensorFlow, flags for pooling, other names for modules and for limits."""
    expected = read_model(folder)
    weights = load_file(folder / "model.safetensors")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        if "attention" in key
        else key: value
        for key, value in weights.items()
    }
    assert set(old) != set(weights)
    save_file(old, folder / "model.safetensors")
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(flags))
    modules = json.loads((folder / "modules.json").read_text())
    for module in modules:
        module["type"] = "sentence_transformers.models." + module["type"].rpartition(".")[2]
    modules[0]["path"] = "0_Transformer"
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(folder / "0_Transformer" / name)
    limit = {"max_seq_length": 7, "do_lower_case": False}
    (folder / "0_Transformer/sentence_xlm-roberta_config.json").write_text(json.dumps(limit))
    (folder / "modules.json").write_text(json.dumps(modules))
    model = read_model(folder)
    assert equal(model.params, expected.params)
    assert model.config == expected.config
    assert (expected.max_tokens, model.max_tokens) == (16, 7)


def test_prompts_of_other_names(folder):
    path = folder / "config_sentence_transformers.json"
    edit(path, prompts={"passage": "passage: ", "all": "x"}, default_prompt_name="all")
    model = read_model(folder)
    assert (model.query_prefix, model.passage_prefix) == ("x", "passage: ")
    path.unlink()
    assert read_model(folder).query_prefix == ""


def test_plain_folder_has_the_defaults():
    model = read_model(FIXTURES / "xlm_roberta")
    assert (model.config.pooling, model.config.normalize) == ("mean", True)
    assert (model.query_prefix, model.passage_prefix, model.max_tokens) == ("", "", 18)


def spoil_truncated(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def spoil_header(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)


def spoil_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def spoil_tensors(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def spoil_missing(folder):
    spoil_tensors(folder, lambda w: w.pop("encoder.layer.1.output.dense.bias"))


def spoil_shape(folder):
    key = "encoder.layer.2.output.dense.weight"
    spoil_tensors(folder, lambda w: w.update({key: w[key].T.copy()}))


def spoil_dtype(folder):
    key = "embeddings.word_embeddings.weight"
    spoil_tensors(folder, lambda w: w.update({key: w[key].astype(np.int32)}))


def spoil_config(**changes):
    return lambda folder: edit(folder / "config.json", **changes)


def spoil_dense(**changes):
    return lambda folder: edit(folder / "2_Dense/config.json", **changes)


def spoil_pooling(**changes):
    return lambda folder: edit(folder / "1_Pooling/config.json", **changes)


def spoil_module(number, **changes):
    def spoil(folder):
        modules = json.loads((folder / "modules.json").read_text())
        modules[number] |= changes
        (folder / "modules.json").write_text(json.dumps(modules))

    return spoil


def spoil_index(name):
    def spoil(folder):
        (folder / "model.safetensors").unlink()
        index = {"weight_map": {"embeddings.word_embeddings.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def spoil_text(file, text):
    return lambda folder: (folder / file).write_bytes(text)


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "not JSON": (spoil_text("config.json", b'{"a": '), r"config\.json: not readable as JSON"),
    "not UTF-8": (spoil_text("config.json", b"\xff\xfe{}x"), r"config\.json: not readable as JSON"),
    "deep JSON": (spoil_text("config.json", b"[" * 100_000), r"config\.json: not readable as JSON"),
    "huge JSON": (spoil_text("config.json", b" " * (1 << 25)), r"config\.json: larger than"),
    "a list": (spoil_text("config.json", b"[]"), r"config\.json: must hold a JSON object"),
    "unknown model": (spoil_config(model_type="gpt2"), "'gpt2': must be one of xlm-roberta, "),
    "odd model": (spoil_config(model_type=["bert"]), "must be one of"),
    "activation": (spoil_config(hidden_act="relu"), "hidden_act = 'relu': only 'gelu'"),
    "relative": (spoil_config(position_embedding_type="relative_key"), "relative_key"),
    "no size": (spoil_config(hidden_size=None), "hidden_size = None: missing or impossible"),
    "size of text": (spoil_config(hidden_size="16"), "hidden_size = '16'"),
    "huge size": (spoil_config(vocab_size=1 << 40), "vocab_size"),
    "no layers": (spoil_config(num_hidden_layers=0), "num_hidden_layers = 0 in config"),
    "heads": (spoil_config(num_attention_heads=3), "impossible shape"),
    "not finite": (spoil_config(layer_norm_eps=float("inf")), "layer_norm_eps"),
    "many layers": (spoil_config(num_hidden_layers=10_000_000), "no tensor encoder.layer.3."),
    "wide": (spoil_config(hidden_size=1 << 23), r"not floats of shape"),
    "truncated": (spoil_truncated, r"model\.safetensors: not a whole safetensors file"),
    "no header": (spoil_header, r"model\.safetensors: not a whole safetensors file"),
    "pickle": (spoil_pickle, r"pytorch_model\.bin is refused .* safe_serialization=True"),
    "no tensor": (spoil_missing, r"no tensor encoder\.layer\.1\.output\.dense\.bias"),
    "shape": (spoil_shape, r"layer\.2\.output\.dense\.weight is F32 \[24, 16\], not .* \[16, 24\]"),
    "integers": (spoil_dtype, r"word_embeddings\.weight is I32"),
    "shard outside": (spoil_index("../model.safetensors"), "is not a safetensors file of this"),
    "pickled shard": (spoil_index("pytorch_model.bin"), "is not a safetensors file of this"),
    "no shard": (spoil_index("other.safetensors"), r"other\.safetensors: no such file"),
    "own code": (spoil_module(1, type="custom.Pooling"), "'custom.Pooling' is not one of"),
    "path outside": (spoil_module(1, path="../other"), "leads out of the folder"),
    "absolute path": (spoil_module(1, path="/tmp"), "leads out of the folder"),
    "unknown module": (
        spoil_module(2, type="sentence_transformers.models.LSTM"),
        r"unsupported modules \['LSTM'\]",
    ),
    "order": (spoil_module(3, type="sentence_transformers.models.Transformer"), "must be Trans"),
    "modules of words": (spoil_text("modules.json", b'["x"]'), "'x' is not one of"),
    "max pooling": (spoil_pooling(pooling_mode="max"), "only cls or mean"),
    "two poolings": (spoil_pooling(pooling_mode=["cls", "mean"]), "only cls or mean"),
    "no prompt": (spoil_pooling(include_prompt=False), "include_prompt"),
    "ReLU": (spoil_dense(activation_function="torch.nn.modules.activation.ReLU"), "ReLU"),
    "odd activation": (spoil_dense(activation_function=["x"]), "only Tanh with bias"),
    "identity with bias": (
        spoil_dense(activation_function="torch.nn.modules.linear.Identity"),
        "Identity' with bias True: only",
    ),
    "residual": (spoil_dense(use_residual=True), "without residual"),
    "tokens": (spoil_dense(module_input_name="token_embeddings"), "on the embedding"),
    "dense width": (spoil_dense(out_features=17), r"linear\.weight is F32 \[16, 16\], not"),
    "no dense": (
        lambda f: (f / "2_Dense/model.safetensors").unlink(),
        "2_Dense: no model.safetensors",
    ),
    "prompts": (
        lambda f: edit(f / "config_sentence_transformers.json", prompts={"query": 1}),
        "prompts must be texts",
    ),
    "lower case": (
        lambda f: edit(f / "sentence_bert_config.json", do_lower_case=True),
        "do_lower_case = true",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_one_line(case, folder):
    spoil, message = SPOILT[case]
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        read_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./missing", "a/b/c", "no-such/model", __file__]
)
@pytest.mark.parametrize("read", [read_model, read_tokenizer])
def test_a_name_of_nothing_is_one_line(name, read):
    with pytest.raises(UserError) as caught:
        read(name)
    assert str(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def export(folder, tokenizer=None, prefix="q"):
    config = DualEncoderConfig(EncoderConfig("bert", 40, 8, 1, 2, 8, 20, 2, 0))
    tokenizer = tokenizer or read_tokenizer(FIXTURES / "labse")
    options = {"query_prefix": prefix, "passage_prefix": "", "max_tokens": 9}
    write_model(folder, config, random_params(config), tokenizer, **options)


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "out").mkdir()
    export(tmp_path / "out")
    export(tmp_path / "out", prefix="other")
    assert read_model(tmp_path / "out").query_prefix == "other"
    assert os.listdir(tmp_path) == ["out"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("four years")
    with pytest.raises(UserError, match="no export of jaxir"):
        export(tmp_path / "own")
    with pytest.raises(UserError, match="no export of jaxir"):
        export(tmp_path / "own/thesis.txt")
    assert (tmp_path / "own/thesis.txt").read_text() == "four years"


def test_a_failed_export_leaves_the_earlier_one(tmp_path, monkeypatch):
    export(tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    for name in ("fsync", "rename"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(UserError, match=r"out: cannot be written .*No space left"):
                export(tmp_path / "out", prefix="other")
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_exports_are_readable_by_others(tmp_path):
    export(tmp_path / "deep/out")
    files = [path for path in (tmp_path / "deep/out").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    with safe_open(tmp_path / "deep/out/model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_lone_tokenizer_file_knows_its_special_tokens(tmp_path):
    whole = read_tokenizer(FIXTURES / "labse")
    shutil.copy(FIXTURES / "labse/tokenizer.json", tmp_path)
    alone = read_tokenizer(tmp_path)
    assert alone("abc b").input_ids == whole("abc b").input_ids
    names = ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "mask_token_id")
    assert (
        [getattr(alone, x) for x in names] == [getattr(whole, x) for x in names] == [0, 2, 3, 1, 4]
    )


def test_a_word_piece_vocabulary_is_cased(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Haus", "##boot", "haus", "ä"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    for name in (tmp_path / "vocab.txt", tmp_path):
        tokenizer = read_tokenizer(name)
        assert tokenizer.tokenize("Hausboot haus ä Ä") == ["Haus", "##boot", "haus", "ä", "[UNK]"]
        assert tokenizer("haus").input_ids == [2, 7, 3]


@pytest.mark.skipif(not MBERT.exists(), reason="needs ../shared/data/tokenizers")
def test_mberts_vocabulary():
    tokenizer = read_tokenizer(MBERT)
    assert len(tokenizer) == 119_547
    assert tokenizer.tokenize("über München สวัสดี")[:2] == ["über", "München"]
    assert tokenizer.pad_token_id == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer.json", "{}"), ("vocab.txt", "a\nb\n"), ("notes.md", "none here")],
)
def test_no_tokenizer_is_one_line(file, content, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match="tokenizer") as caught:
        read_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["BertTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_tokenizer_is_the_one_that_transformers_takes(name, folder, tmp_path):
    edit(folder / "tokenizer_config.json", tokenizer_class=name)
    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    for tokenizer, to in ((ours, "ours"), (theirs, "theirs")):
        tokenizer.save_pretrained(tmp_path / to)
    for file in os.listdir(tmp_path / "theirs"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()


@pytest.fixture
def with_tokenizer(tmp_path):
    """Makes a folder of an architecture with a tokenizer of XLM-R's frame, which pads with 1."""

    def make(architecture, **changes):
        tokenizer = train_tokenizer(["a cab", "bad dad", "egg"], 40)
        encoder = EncoderConfig(architecture, 60, 16, 1, 2, 24, 20)
        config = DualEncoderConfig(encoder)
        write_model(
            tmp_path / "made", config, random_params(config), tokenizer, **PREFIXES, max_tokens=12
        )
        edit(tmp_path / "made/config.json", **changes)
        return tmp_path / "made", len(tokenizer)

    return make


def test_a_bert_takes_its_padding_from_its_tokenizer(with_tokenizer):
    # published configs are often wrong about it: E5's says 0 beside a tokenizer that pads with 1
    folder, _ = with_tokenizer("bert", pad_token_id=0)
    model = read_folder(str(folder))
    assert model.config.encoder.pad_id == model.tokenizer.pad_token_id == 1
    texts = ["a", "bad"]
    wrong = Retriever.load(folder).encode_queries(texts)
    edit(folder / "config.json", pad_token_id=1)
    np.testing.assert_array_equal(wrong, Retriever.load(folder).encode_queries(texts))


def test_a_tokenizer_of_another_model_is_named_with_both_numbers(with_tokenizer):
    folder, _ = with_tokenizer("xlm-roberta", pad_token_id=0)
    message = "tokenizer pads with token 1, its weights count positions from pad_token_id = 0"
    with pytest.raises(UserError, match=message):
        read_folder(str(folder))
    folder, size = with_tokenizer("bert")
    model = read_folder(str(folder))
    small = dataclasses.replace(model.config.encoder, vocab_size=size - 1)
    message = f"tokenizer has {size} tokens, its weights have embeddings of {size - 1}: they do not"
    with pytest.raises(UserError, match=message):
        match_tokenizer(small, model.tokenizer, "the model")
