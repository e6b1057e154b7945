"""CLIP and its folders: as PyTorch answers, on one device and eight, and every way to be wrong."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from jaxir.config import CLIP_SHAPES, DualEncoderConfig, EncoderConfig, VitConfig
from jaxir.errors import UserError
from jaxir.models import dual_encoder
from jaxir.models.hf import read_tokenizer, write_model
from jaxir.models.parameters import with_params
from jaxir.runtime.mesh import state_shardings
from jaxir.vision.models.clip import abstract_params
from jaxir.vision.models.clip_model import ClipModel, read_clip, read_clip_tokenizer
from jaxir.vision.models.clip_preprocessing import Preprocessing, read_preprocessing
from jaxir.vision.models.vit import VisionTransformer, patches_of, resized_positions
from jaxir.vision.models.weights import read_clip_config, read_clip_params, read_vit

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def folder(tmp_path):
    """A copy of the model, to be spoilt."""
    return shutil.copytree(FIXTURES / "clip", tmp_path / "model")


def edit(path, **changes):
    values = json.loads(path.read_text())
    for name, value in changes.items():
        inner = values
        *outer, last = name.split("__")
        for key in outer:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(values))


def test_answers_as_pytorch_does(mesh):
    expected = np.load(FIXTURES / "clip/expected.npz")
    model = read_clip(FIXTURES / "clip")
    images = model.image_features(expected["pixels"])
    texts = model.text_features(expected["texts"].tolist())
    np.testing.assert_allclose(images, expected["image_embeds"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(texts, expected["text_embeds"], rtol=0, atol=1e-5)
    logits = np.exp(np.asarray(model.params["logit_scale"])) * images @ texts.T
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # published: arXiv 2103.00020, table 20, and OpenAI's files
    [("ViT-B/32", 151_277_313), ("ViT-B/16", 149_620_737), ("ViT-L/14", 427_616_513)],
)
def test_shapes_have_the_published_number_of_parameters(name, parameters):
    shapes = jax.tree.leaves(abstract_params(CLIP_SHAPES[name]))
    assert sum(np.prod(leaf.shape, dtype=int) for leaf in shapes) == parameters


TINY = VitConfig(
    image_size=16,
    patch_size=4,
    hidden_size=32,
    layers=2,
    heads=2,
    intermediate_size=512,
    dropout=0.2,
    attention_dropout=0.1,
)


def test_split_parameters_and_rows_change_nothing():
    """Gradients on eight devices with FSDP are those on one, dropout included."""

    def make():
        return VisionTransformer(TINY, jnp.dtype("float32"), nnx.Rngs(0), remat="layers")

    @jax.jit
    @jax.grad
    def gradient(params, pixels, seeds):
        return jnp.sum(jnp.sin(with_params(make, params)(pixels, seeds)[:, 0]))

    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32),
        nnx.to_pure_dict(nnx.state(nnx.eval_shape(make))),
    )
    pixels = rng.normal(size=(8, 16, 16, 3)).astype(np.float32)
    seeds = np.arange(8, dtype=np.uint32)
    alone = gradient(params, pixels, seeds)
    mesh = jax.make_mesh((8,), ("data",))
    with jax.set_mesh(mesh):
        placed = state_shardings(params, mesh, fsdp=True)
        assert placed["layers"]["intermediate"]["kernel"].spec[-1] == "data"
        by_row = NamedSharding(mesh, PartitionSpec("data"))
        rows = (jax.device_put(x, by_row) for x in (pixels, seeds))
        split = gradient(jax.device_put(params, placed), *rows)
    for one, eight in zip(jax.tree.leaves(alone), jax.tree.leaves(split)):
        np.testing.assert_allclose(eight, one, rtol=0, atol=1e-5 * max(1, np.abs(one).max()))


def test_patches_are_cut_by_rows():
    pixels = np.arange(2 * 6 * 6 * 3, dtype=np.float32).reshape(2, 6, 6, 3)
    found = np.asarray(patches_of(jnp.asarray(pixels), 2))
    assert found.shape == (2, 9, 12)
    for number in range(9):
        row, column = 2 * (number // 3), 2 * (number % 3)
        cut = pixels[:, row : row + 2, column : column + 2]
        np.testing.assert_array_equal(found[:, number], cut.reshape(2, 12))


def test_resized_positions_keep_what_is_constant_and_the_class_token():
    table = np.ones((10, 4), np.float32)
    table[0] = 7
    found = resized_positions(table, 3, 5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:], 1, atol=1e-6)
    assert resized_positions(table, 3, 3) is table
    with pytest.raises(UserError, match="10 rows"):
        resized_positions(table, 4, 5)


def test_an_impossible_vit_is_refused():
    for changes in ({"patch_size": 5}, {"heads": 3}):
        config = VitConfig(**vars(TINY) | changes)
        with pytest.raises(UserError, match="must be a multiple"):
            VisionTransformer(config, jnp.dtype("float32"), nnx.Rngs(0))
    model = nnx.eval_shape(lambda: VisionTransformer(TINY, jnp.dtype("float32"), nnx.Rngs(0)))
    with pytest.raises(UserError, match="16 x 16 x 3"):
        model(jnp.zeros((1, 20, 20, 3)))


def test_texts_of_another_model(tmp_path):
    """A dual encoder embeds the texts; CLIP's own text side need not be there."""
    encoder = EncoderConfig("bert", 40, 16, 1, 2, 24, 20, 2, 0)
    config = DualEncoderConfig(encoder, "mean", 0, 10, False, "float32")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32),
        dual_encoder.abstract_params(config),
    )
    tokenizer = read_tokenizer(FIXTURES / "labse")
    prefixes = {"query_prefix": "", "passage_prefix": ""}
    write_model(tmp_path / "texts", config, params, tokenizer, **prefixes, max_tokens=12)
    model = read_clip(FIXTURES / "clip", str(tmp_path / "texts"))
    assert "text" not in model.params
    found = model.text_features(["a cab", "bad dad"])
    tokens = tokenizer(["a cab", "bad dad"], padding=True, return_tensors="np")
    embed = jax.jit(lambda *inputs: dual_encoder.embed(config, *inputs))
    expected = embed(params, tokens["input_ids"], tokens["attention_mask"].astype(bool))
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="do not belong together"):
        read_clip(FIXTURES / "clip", str(FIXTURES / "labse"))


def test_no_texts_no_images():
    model = read_clip(FIXTURES / "clip")
    assert model.text_features([]).shape == (0, 10)
    assert model.image_features(np.zeros((0, 24, 24, 3), np.float32)).shape == (0, 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "must be 'clip'"),
        ({"vision_config__hidden_act": "relu"}, "hidden_act"),
        ({"vision_config__num_attention_heads": 5}, "impossible shape"),
        ({"vision_config__patch_size": 0}, "impossible shape"),
        ({"vision_config__num_channels": 4}, "num_channels"),
        ({"text_config__vocab_size": "many"}, "vocab_size"),
        ({"text_config": 3}, "text_config"),
        ({"text_config__vocab_size": 41}, "text_model.embeddings.token_embedding.weight is F32"),
        ({"vision_config__num_hidden_layers": 4}, r"no tensor vision_model\.encoder\.layers\.3\."),
        ({"projection_dim": 11}, "projection.weight is F32"),
        ({"vision_config__image_size": 32}, "position_embedding.weight is F32"),
    ],
)
def test_a_wrong_config_is_one_line(changes, message, folder):
    edit(folder / "config.json", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_clip_params(folder, read_clip_config(folder / "config.json"))
    assert "\n" not in str(caught.value)


def test_values_in_the_second_place_count(folder):
    edit(folder / "config.json", text_config_dict={"eos_token_id": 7}, vision_config_dict=None)
    config = read_clip_config(folder / "config.json")
    assert (config.text.end_id, config.text.highest_id_ends) == (7, False)


def test_missing_and_damaged_files(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    config = read_clip_config(folder / "config.json")
    missing = "vision_model.encoder.layers.1.mlp.fc2.bias"
    save_file({name: tensors[name] for name in tensors if name != missing}, weights)
    with pytest.raises(UserError, match=missing):
        read_clip_params(folder, config)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        read_clip_params(folder, config)
    weights.unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_clip_params(folder, config)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match="no tokenizer"):
        read_clip_tokenizer(folder, config.text)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UserError, match=r"preprocessor_config\.json: no such file"):
        read_preprocessing(folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    config = read_clip_config(folder / "config.json")
    config.text.end_id, config.text.highest_id_ends = 7, False
    with pytest.raises(UserError, match="does not end texts"):
        read_clip_tokenizer(folder, config.text)
    with pytest.raises(UserError, match="the model needs 24 x 24"):
        ClipModel(config, {}, Preprocessing(), [])
    config.text.vocab_size = 3
    with pytest.raises(UserError, match="4 tokens"):
        ClipModel(config, {}, read_preprocessing(folder), "four")


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 0},
        {"size": {"longest_edge": 5}},
        {"size": 10**6},
        {"crop_size": "x"},
        {"do_resize": False},
        {"do_center_crop": False},
        {"resample": 9},
        {"image_mean": [1, 2]},
        {"image_std": [0, 1, 1]},
        {"rescale_factor": "a"},
    ],
)
def test_impossible_preprocessing_is_one_line(changes, folder):
    path = folder / "preprocessor_config.json"
    edit(path, **changes)
    with pytest.raises(UserError, match=r"preprocessor_config\.json: "):
        read_preprocessing(folder)


def test_new_folders_keep_preprocessing_elsewhere(folder):
    values = json.loads((folder / "preprocessor_config.json").read_text())
    expected = read_preprocessing(folder)
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    assert read_preprocessing(folder) == expected


def test_plain_vit_weights_without_torch(tmp_path):
    """Names and shapes as transformers files them; which is which, the parity tests tell."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "deit"}))
    with pytest.raises(UserError, match="must be 'vit'"):
        read_vit(tmp_path)
    edit(tmp_path / "config.json", model_type="vit", qkv_bias=False)
    with pytest.raises(UserError, match="qkv_bias"):
        read_vit(tmp_path)
