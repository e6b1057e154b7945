"""Makes `tests/fixtures`: tiny random models of PyTorch transformers and what they answer.

    python tests/make_model_fixtures.py

Needs the extra `parity`. The folders differ on purpose in how weights are filed: with the prefix
of a model with heads (xlm_roberta, bert), in shards (xlm_roberta_xl), with the files of
sentence-transformers (labse), with byte pairs and image preprocessing (clip).
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

FIXTURES = Path(__file__).parent / "fixtures"
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Random in every parameter, biases and LayerNorms too, so that none can be mixed up unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if re.search(r"(layer_?norm\w*|layrnorm)\.weight", name, re.I) else 0.0
            parameter.normal_(mean, 0.2, generator=generator)
    return model.eval()


def texts(pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and mask: full, short and one-token rows, and one padded on the left."""
    mask = np.array([[1] * 9, [1] * 5 + [0] * 4, [1] + [0] * 8, [0] * 3 + [1] * 6], bool)
    ids = np.random.default_rng(0).integers(3, SHAPE["vocab_size"], mask.shape)
    return np.where(mask, ids, pad_id).astype(np.int32), mask


def answers(model: torch.nn.Module, pad_id: int) -> dict[str, np.ndarray]:
    ids, mask = texts(pad_id)
    with torch.no_grad():
        states = model(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            output_hidden_states=True,
        ).hidden_states
    return {"ids": ids, "mask": mask, "hidden_states": torch.stack(states).numpy()}


def make(name: str, config_class, model_class, **options) -> None:
    config = config_class(**SHAPE | options)
    model = randomize(model_class(config))
    folder = FIXTURES / name
    model.save_pretrained(folder, max_shard_size="12KB" if name.endswith("xl") else "1GB")
    encoder = model.base_model
    np.savez_compressed(folder / "expected.npz", **answers(encoder, config.pad_token_id))


def make_labse(vocabulary: Path) -> None:
    """As LaBSE is filed: last layer's [CLS], Dense with tanh, unit length."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary.write_text("\n".join(pieces + [f"##{x}" for x in "abcdefghi"]) + "\n")
    plain = vocabulary.parent / "plain"
    randomize(transformers.BertModel(transformers.BertConfig(**SHAPE))).save_pretrained(plain)
    transformers.BertTokenizer(str(vocabulary), do_lower_case=False).save_pretrained(plain)
    width = SHAPE["hidden_size"]
    modules = [
        Transformer(str(plain), processor_kwargs={"model_max_length": 16}),
        Pooling(width, pooling_mode="cls"),
        randomize(Dense(width, width, activation_function=torch.nn.Tanh())),
        Normalize(),
    ]
    prompts = {"query": "q: ", "document": "p: "}
    model = SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    model.save(str(FIXTURES / "labse"), create_model_card=False)
    expected = answers(model[0].auto_model.eval(), 0)
    with torch.no_grad():
        features = {"token_embeddings": torch.tensor(expected["hidden_states"][-1])}
        features["attention_mask"] = torch.tensor(expected["mask"], dtype=torch.long)
        for module in list(model)[1:]:
            features = module(features)
    expected["embeddings"] = features["sentence_embedding"].numpy()
    np.savez_compressed(FIXTURES / "labse/expected.npz", **expected)
    shutil.rmtree(plain)
    vocabulary.unlink()


def make_clip(folder: Path, end: int, activation: str = "quick_gelu") -> transformers.CLIPModel:
    """A tiny CLIP and its weights, without tokenizer and preprocessing."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = {name: SHAPE[name] for name in names} | {"hidden_act": activation}
    text = shape | {"vocab_size": 40, "max_position_embeddings": 16}
    text |= {"bos_token_id": 38, "eos_token_id": end}
    vision = shape | {"hidden_size": 12, "image_size": 24, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)
    model = randomize(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    return model


def make_whole_clip() -> None:
    """As CLIP is filed: byte pairs, the old eos_token_id = 2 (the highest id ends a text)."""
    folder = FIXTURES / "clip"
    model = make_clip(folder, 2)
    letters = "abcdefgilmnoprstuv"
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)][:34]
    pieces += ["al", "all</w>", "ball</w>", "!", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\na l\nal l</w>\nb all</w>\n")
    processor = {"size": 24, "crop_size": 24, "do_center_crop": True, "do_normalize": True}
    processor |= {"do_resize": True, "resample": 3}
    processor |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(3, 24, 24, 3)).astype(np.float32)
    texts = ["a red ball", "b", "ball " * 20]
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    options = {"padding": True, "truncation": True, "max_length": 16, "return_tensors": "pt"}
    tokens = tokenizer(texts, **options)
    with torch.no_grad():
        answer = model(**tokens, pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)))
    np.savez_compressed(
        folder / "expected.npz",
        pixels=pixels,
        texts=np.array(texts),
        image_embeds=answer.image_embeds.numpy(),
        text_embeds=answer.text_embeds.numpy(),
        logits=answer.logits_per_image.numpy(),
    )


def main() -> None:
    shutil.rmtree(FIXTURES, ignore_errors=True)
    FIXTURES.mkdir()
    roberta = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
    make(
        "xlm_roberta",
        transformers.XLMRobertaConfig,
        transformers.XLMRobertaForMaskedLM,
        **roberta,
    )
    make(
        "xlm_roberta_xl",
        transformers.XLMRobertaXLConfig,
        transformers.XLMRobertaXLModel,
        **roberta,
    )
    make("bert", transformers.BertConfig, transformers.BertForPreTraining)
    make_labse(FIXTURES / "vocab.txt")
    make_whole_clip()
    for file in FIXTURES.rglob("*.safetensors"):
        file.chmod(0o644)


if __name__ == "__main__":
    main()
