"""ALBEF, from transformers folders, against PyTorch: towers, fused states, scores of tokens."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `parity`: PyTorch")

import transformers  # noqa: E402

from jaxir.config import AlbefModelConfig, VitConfig  # noqa: E402
from jaxir.vision.models.albef import module  # noqa: E402
from jaxir.vision.models.pretrained import params_from_folders  # noqa: E402

VOCABULARY, WIDTH, TEXT_LAYERS, LAYERS, SIDE = 60, 24, 1, 3, 16
TEXTS = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM),
    "xlm-roberta": (transformers.XLMRobertaConfig, transformers.XLMRobertaForMaskedLM),
}
CROSS = {
    "cross_query": "self.query",
    "cross_key": "self.key",
    "cross_value": "self.value",
    "cross_output": "output.dense",
    "cross_norm": "output.LayerNorm",
}


def text_model(architecture):
    """A tiny decoder with cross-attention; its layers attend in both directions all the same."""
    config_class, model_class = TEXTS[architecture]
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS}
    shape |= {"num_attention_heads": 3, "intermediate_size": 40, "max_position_embeddings": 24}
    shape |= {"initializer_range": 0.2, "is_decoder": True, "add_cross_attention": True}
    model = model_class(config_class(**shape, attn_implementation="eager")).eval()
    for parameter in model.parameters():  # also biases and LayerNorms, which start as 0 and 1
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def image_model():
    shape = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 3}
    shape |= {"intermediate_size": 40, "image_size": SIDE, "patch_size": 8}
    config = transformers.ViTConfig(**shape, initializer_range=0.2, attn_implementation="eager")
    return transformers.ViTModel(config, add_pooling_layer=False).eval()


def with_cross_attention(params, layers):
    """No folder has these weights; they are copied over."""
    fused = params["fusion"]["layers"]
    for ours, theirs in CROSS.items():
        modules = [layer.crossattention.get_submodule(theirs) for layer in layers]
        weight = np.stack([module.weight.detach().numpy() for module in modules])
        name = "scale" if ours == "cross_norm" else "kernel"
        fused[ours] = {
            name: weight if name == "scale" else weight.transpose(0, 2, 1),
            "bias": np.stack([module.bias.detach().numpy() for module in modules]),
        }
    return params


@pytest.mark.parametrize("architecture", TEXTS)
def test_fused_states_and_scores_match_transformers(architecture, tmp_path):
    torch.manual_seed(0)
    text, image = text_model(architecture), image_model()
    text.save_pretrained(tmp_path / "text")
    image.save_pretrained(tmp_path / "image")
    config = AlbefModelConfig(
        vit=VitConfig(image_size=SIDE),
        text_layers=TEXT_LAYERS,
        projection=8,
        compute_dtype="float32",
        init_text=str(tmp_path / "text"),
        init_vision=str(tmp_path / "image"),
    )
    config, params = params_from_folders(config, jax.random.key(0))
    trunk = text.bert if architecture == "bert" else text.roberta
    params = with_cross_attention(params, trunk.encoder.layer[TEXT_LAYERS:])

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    lengths = np.array([9, 5, 2], np.int32)
    mask = np.arange(9)[None] < lengths[:, None]
    ids = np.where(mask, rng.integers(3, VOCABULARY, mask.shape), config.text.pad_id)

    def run(params, pixels, ids, lengths):
        model = module(config, params)
        images, texts = model.image_states(pixels, None), model.text_states(ids, lengths, None)
        fused = model.fuse(texts, lengths, images, None)
        return images, texts, fused, model.token_scores(fused)

    ours = jax.jit(run)(params, pixels, ids.astype(np.int32), lengths)

    normalised = (pixels / 255 - config.image_mean) / config.image_std
    far = torch.tensor(np.where(mask, 0.0, -1e9)[:, None, None], dtype=torch.float32)
    with torch.no_grad():
        images = image(torch.tensor(normalised.transpose(0, 3, 1, 2), dtype=torch.float32))
        images = images.last_hidden_state
        states = trunk.embeddings(input_ids=torch.tensor(ids))
        for layer in trunk.encoder.layer[:TEXT_LAYERS]:
            states = texts = layer(states, far)
        for layer in trunk.encoder.layer[TEXT_LAYERS:]:
            states = layer(states, far, images)
        scores = (text.cls if architecture == "bert" else text.lm_head)(states)
    np.testing.assert_allclose(ours[0], images.numpy(), atol=1e-5, rtol=0)
    for mine, theirs in zip(ours[1:], (texts, states, scores)):
        np.testing.assert_allclose(mine[mask], theirs.numpy()[mask], atol=1e-5, rtol=1e-5)


def test_a_folder_without_a_head_leaves_it_random(tmp_path):
    text_model("bert").bert.save_pretrained(tmp_path)
    config = AlbefModelConfig(
        vit=VitConfig(16, 8, 8, 1, 2, 8), text_layers=1, projection=4, init_text=str(tmp_path)
    )
    config, params = params_from_folders(config, jax.random.key(0))
    assert (config.text.layers, config.fusion.layers) == (LAYERS, LAYERS - 1)
    assert params["masked_token_head"]["dense"]["kernel"].std() == pytest.approx(0.02, rel=0.2)
    assert not params["masked_token_head"]["bias"].any()
