"""Live against PyTorch transformers: CLIP, its image preprocessing, and ViT."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `parity`: PyTorch")

import transformers  # noqa: E402
from flax import nnx  # noqa: E402
from make_model_fixtures import FIXTURES, make_clip, randomize  # noqa: E402
from PIL import Image  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402

from jaxir.models.parameters import with_params  # noqa: E402
from jaxir.vision.models.clip import embed_images, embed_texts  # noqa: E402
from jaxir.vision.models.clip_model import read_clip  # noqa: E402
from jaxir.vision.models.clip_preprocessing import preprocess, read_preprocessing  # noqa: E402
from jaxir.vision.models.vit import VisionTransformer, resized_positions  # noqa: E402
from jaxir.vision.models.weights import read_clip_config, read_clip_params, read_vit  # noqa: E402


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("end", [2, 39])
def test_clip_matches_transformers(end, activation, tmp_path):
    theirs = make_clip(tmp_path, end, activation)
    config = read_clip_config(tmp_path / "config.json")
    params = read_clip_params(tmp_path, config)
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    ids = rng.integers(3, 38, (5, 12)).astype(np.int32)
    ids[np.arange(5), [11, 3, 7, 1, 0]] = 39
    ids[1, 4:] = 39  # padded with the end itself
    ids[3, 2:] = 0
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(ids, dtype=torch.long),
            pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)),
        )
    images = jax.jit(lambda *x: embed_images(config, *x))(params, pixels)
    texts = jax.jit(lambda *x: embed_texts(config, *x))(params, ids)
    np.testing.assert_allclose(images, expected.image_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(texts, expected.text_embeds, rtol=0, atol=1e-5)
    logits = np.exp(params["logit_scale"]) * (np.asarray(images) @ np.asarray(texts).T)
    np.testing.assert_allclose(logits, expected.logits_per_image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"size": {"height": 20, "width": 24}}, {"resample": 2}])
@pytest.mark.parametrize("shape", [(31, 57), (80, 33), (24, 24), (9, 10), (300, 211)])
def test_preprocessing_matches_transformers(shape, options, tmp_path):
    processor = CLIPImageProcessorPil(
        **{"size": {"shortest_edge": 24}, "crop_size": {"height": 20, "width": 24}} | options
    )
    processor.save_pretrained(tmp_path)
    values = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    image = Image.fromarray(values)
    expected = processor(image, return_tensors="np")["pixel_values"]
    found = preprocess([image], read_preprocessing(tmp_path))
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


def test_preprocessing_of_a_small_image_that_is_not_enlarged_enough(tmp_path):
    """A crop beyond the image is black around it."""
    processor = CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size=24)
    processor.save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8))
    expected = processor(image, return_tensors="np")["pixel_values"]
    found = preprocess([image], read_preprocessing(tmp_path))
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("with_head", [False, True])
def test_vit_matches_transformers(with_head, tmp_path):
    config = transformers.ViTConfig(
        image_size=24,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
    )
    kind = transformers.ViTForImageClassification if with_head else transformers.ViTModel
    theirs = randomize(kind(config))
    theirs.save_pretrained(tmp_path)
    ours, params = read_vit(tmp_path)
    pixels = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.tensor(pixels.transpose(0, 3, 1, 2))
        expected = theirs.base_model(images).last_hidden_state.numpy()

    @jax.jit
    def run(params, pixels):
        make = lambda: VisionTransformer(ours, np.dtype("float32"), nnx.Rngs(0))  # noqa: E731
        return with_params(make, params)(pixels)

    np.testing.assert_allclose(run(params, pixels), expected, rtol=0, atol=1e-5)
    larger, resized = read_vit(tmp_path, 40)
    assert (larger.image_size, larger.positions) == (40, 26)
    table = params["position_embedding"]["embedding"]
    np.testing.assert_array_equal(
        resized["position_embedding"]["embedding"], resized_positions(table, 3, 5)
    )


@pytest.mark.parametrize(("before", "after"), [(7, 10), (14, 8), (3, 3)])
def test_positions_are_resized_as_pytorch_does(before, after):
    table = np.random.default_rng(0).normal(size=(1 + before**2, 6))
    grid = torch.tensor(table[1:].reshape(before, before, 6)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        grid, size=(after, after), mode="bicubic", align_corners=False
    )
    expected = resized[0].permute(1, 2, 0).reshape(after**2, 6).numpy()
    found = resized_positions(table, before, after)
    np.testing.assert_array_equal(found[0], table[0])
    np.testing.assert_allclose(found[1:], expected, rtol=0, atol=1e-12)


def test_the_committed_model_still_answers_as_pytorch_does():
    folder = FIXTURES / "clip"
    model = read_clip(folder)
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    texts = ["a red ball", "b", "ball " * 20]
    tokens = transformers.CLIPTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs.get_text_features(**tokens)
    expected = getattr(expected, "pooler_output", expected)
    expected = torch.nn.functional.normalize(expected, dim=1)
    np.testing.assert_allclose(model.text_features(texts), expected, rtol=0, atol=1e-5)
