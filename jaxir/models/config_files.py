"""transformers' `config.json`, to and from jaxir's config, and a folder's other JSON files."""

import json
import math
from pathlib import Path
from typing import Any

from jaxir.config import ARCHITECTURES, EncoderConfig
from jaxir.errors import UserError

_JSON_LIMIT = 1 << 24  # bytes; the index of a sharded model is the largest, about 100 KB


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        UserError: there is no such file, it is too large, or it is not JSON.
    """
    try:
        if path.stat().st_size > _JSON_LIMIT:
            raise UserError(
                f"{path}: larger than {_JSON_LIMIT:,} bytes, which no config is; replace the file"
            )
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; is the folder complete?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is no such file, or it holds no JSON object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold a JSON object")
    return value


def checked_field(
    values: dict, name: str, kinds: type | tuple, path: Path, default: Any = None
) -> Any:
    """A field of a config, checked: its type, and numbers for being finite and not negative.

    Args:
        values: of the config.
        name: of the field.
        kinds: the types that it may have.
        path: of the config's file, for the message.
        default: for a missing field; None: it must be there.

    Raises:
        UserError: the field is missing or impossible.
    """
    value = values.get(name, default)
    good = isinstance(value, kinds) and (isinstance(value, bool) <= (kinds is bool))
    if good and isinstance(value, int | float):
        good = math.isfinite(value) and 0 <= value < 1 << 24
    if not good:
        raise UserError(f"{path}: {name} = {value!r}: missing or impossible")
    return value


def read_encoder_config(path: Path) -> EncoderConfig:
    """The encoder's config from transformers' config.json.

    Raises:
        UserError: names the field that is missing, impossible or unsupported.
    """
    values = read_object(path)
    architecture = values.get("model_type")
    if architecture not in ARCHITECTURES:
        names = ", ".join(ARCHITECTURES)
        raise UserError(f"{path}: model_type = {architecture!r}: must be one of {names}")
    for name, required in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
        if values.get(name, required) != required:
            raise UserError(f"{path}: {name} = {values[name]!r}: only {required!r} is supported")
    integers = {
        ours: checked_field(values, theirs, int, path, default)
        for ours, theirs, default in (
            ("vocab_size", "vocab_size", None),
            ("hidden_size", "hidden_size", None),
            ("layers", "num_hidden_layers", None),
            ("heads", "num_attention_heads", None),
            ("intermediate_size", "intermediate_size", None),
            ("positions", "max_position_embeddings", None),
            ("token_types", "type_vocab_size", 2),
        )
    }
    positive = all(value for name, value in integers.items() if name != "layers")
    if not positive or integers["hidden_size"] % integers["heads"]:
        raise UserError(f"{path}: impossible shape: {integers}")
    numbers = (int, float)
    return EncoderConfig(
        architecture=architecture,
        **integers,
        pad_id=checked_field(values, "pad_token_id", int, path, 0 if architecture == "bert" else 1),
        layer_norm_epsilon=checked_field(values, "layer_norm_eps", numbers, path, 1e-12),
        dropout=checked_field(values, "hidden_dropout_prob", numbers, path, 0.1),
        attention_dropout=checked_field(values, "attention_probs_dropout_prob", numbers, path, 0.1),
    )


def config_json(config: EncoderConfig, tokenizer) -> dict[str, Any]:
    """transformers' config.json of an encoder."""
    architectures = {
        "xlm-roberta": "XLMRobertaModel",
        "xlm-roberta-xl": "XLMRobertaXLModel",
        "bert": "BertModel",
    }
    return {
        "architectures": [architectures[config.architecture]],
        "model_type": config.architecture,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.token_types,
        "layer_norm_eps": config.layer_norm_epsilon,
        "pad_token_id": config.pad_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "dtype": "float32",
    }


def save_json(path: Path, value: Any) -> None:
    """Write a JSON file; makes its folder if need be."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
