"""The files of sentence-transformers: modules after the encoder, prompts and maximum length.

Versions 2 to 5 and version 6 write them differently: jaxir reads both, and writes files that both
read.
"""

import contextlib
from pathlib import Path

import numpy as np

from jaxir.config import DualEncoderConfig, EncoderConfig
from jaxir.errors import UserError
from jaxir.models.config_files import checked_field, read_json, read_object, save_json
from jaxir.models.dual_encoder import Params
from jaxir.models.weights import Weights, save_tensors

# old folders have a flag for each pooling mode, new ones the mode's name
_POOLING_FLAGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_TANH = "torch.nn.modules.activation.Tanh"
_IDENTITY = "torch.nn.modules.linear.Identity"
_EMBEDDING = "sentence_embedding"
_ST = "sentence_transformers.models."  # module paths that versions 2 to 6 all read
_PASSAGE_PROMPTS = ("document", "passage", "corpus")


def read_pooling(path: Path, config: DualEncoderConfig) -> None:
    """Set `config.pooling` from a Pooling module's config.json.

    Raises:
        UserError: the pooling is not supported.
    """
    values = read_object(path)
    flags = [name for name, on in values.items() if name.startswith("pooling_mode_") and on is True]
    modes = values.get("pooling_mode", [_POOLING_FLAGS.get(flag, flag) for flag in flags])
    modes = [modes] if isinstance(modes, str) else modes
    if modes not in (["cls"], ["mean"]):
        raise UserError(f"{path}: pooling {modes!r}: only cls or mean is supported")
    if values.get("include_prompt", True) is not True:
        raise UserError(
            f"{path}: include_prompt = false (pooling without the prefix) is unsupported"
        )
    config.pooling = modes[0]


def read_dense(folder: Path, config: DualEncoderConfig, params: Params) -> None:
    """Add a Dense module to config and parameters: LaBSE's Dense(tanh), or a projection.

    Raises:
        UserError: the module is not supported, or a file is missing or damaged.
    """
    path = folder / "config.json"
    values = read_object(path)
    activation, bias = str(values.get("activation_function")), values.get("bias", True) is True
    name = {(_TANH, True): "dense", (_IDENTITY, False): "projection"}.get((activation, bias))
    ends = [values.get(f"module_{end}_name", _EMBEDDING) for end in ("input", "output")]
    if name is None or values.get("use_residual") or ends != [_EMBEDDING] * 2:
        raise UserError(
            f"{path}: activation_function {activation!r} with bias {bias}: only Tanh with bias and "
            "Identity without, on the embedding, without residual, are supported"
        )
    if name in params or "projection" in params:
        raise UserError(f"{path}: only one Dense with Tanh and then one projection are supported")
    width = checked_field(values, "out_features", int, path)
    with contextlib.ExitStack() as stack:
        weights = Weights(folder, stack)
        kernel = weights.read("linear.weight", (width, config.embedding_size))
        params[name] = {"kernel": np.ascontiguousarray(kernel.T)}
        if bias:
            params[name]["bias"] = weights.read("linear.bias", (width,))
    setattr(config, name, width)


def modules_of(folder: Path) -> list[tuple[str, Path]]:
    """Kind and folder of each module of a sentence-transformers folder; [] for another folder.

    Raises:
        UserError: modules.json is damaged, or its modules are not supported.
    """
    path = folder / "modules.json"
    if not path.exists():
        return []
    entries = read_json(path)
    modules = []
    for entry in entries if isinstance(entries, list) else [entries]:
        kind = entry.get("type") if isinstance(entry, dict) else entry
        where = entry.get("path", "") if isinstance(entry, dict) else ""
        package, _, name = str(kind).rpartition(".")
        if not package.startswith("sentence_transformers.") or not isinstance(where, str):
            raise UserError(f"{path}: module {kind!r} is not one of sentence-transformers")
        if Path(where).is_absolute() or ".." in Path(where).parts:
            raise UserError(f"{path}: module path {where!r} leads out of the folder")
        modules.append((name, folder / where))
    kinds = [name for name, _ in modules]
    unknown = set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"}
    if unknown:
        raise UserError(f"{path}: unsupported modules {sorted(unknown)}")
    dense = ["Dense"] * kinds.count("Dense")
    normalize = ["Normalize"] * (kinds[-1:] == ["Normalize"])
    if kinds != ["Transformer", "Pooling", *dense, *normalize]:
        raise UserError(
            f"{path}: modules {kinds}: must be Transformer, Pooling, Dense if any, Normalize if any"
        )
    return modules


def read_prompts(folder: Path) -> tuple[str, str]:
    """The prefixes of queries and of passages."""
    path = folder / "config_sentence_transformers.json"
    values = read_object(path) if path.exists() else {}
    prompts = checked_field(values, "prompts", dict, path, {})
    default = prompts.get(str(values.get("default_prompt_name")), "")
    query = prompts.get("query", default)
    passage = next((prompts[name] for name in _PASSAGE_PROMPTS if name in prompts), default)
    if not (isinstance(query, str) and isinstance(passage, str)):
        raise UserError(f"{path}: prompts must be texts")
    return query, passage


def read_max_tokens(folder: Path, encoder: EncoderConfig) -> int:
    """The maximum length of a text in tokens, at most that of the position table."""
    # old folders name the first file after the architecture: sentence_xlm-roberta_config.json
    files = [*sorted(folder.glob("sentence_*_config.json")), folder / "tokenizer_config.json"]
    limits = []
    for path in files:
        values = read_object(path) if path.exists() else {}
        limits += [values.get("max_seq_length"), values.get("model_max_length")]
        if path != files[-1] and values.get("do_lower_case") is True:
            raise UserError(f"{path}: do_lower_case = true: only the tokenizer may do that")
    # the tokenizer's limit comes last; it writes "no limit" as the float 1e30
    limit = next((x for x in limits if isinstance(x, int) and x > 0), encoder.max_tokens)
    return min(limit, encoder.max_tokens)


def write_modules(folder: Path, config: DualEncoderConfig, params: Params) -> None:
    """Write the modules after the encoder, and modules.json, which lists all of them."""
    width = config.encoder.hidden_size
    flags = {flag: mode == config.pooling for flag, mode in _POOLING_FLAGS.items()}
    pooling = {"word_embedding_dimension": width} | flags
    save_json(folder / "1_Pooling/config.json", pooling)
    kinds = ["Transformer", "Pooling"]
    for name, activation in (("dense", _TANH), ("projection", _IDENTITY)):
        if name not in params:
            continue
        kernel = np.asarray(params[name]["kernel"], np.float32)
        tensors = {"linear.weight": kernel.T}
        if "bias" in params[name]:
            tensors["linear.bias"] = np.asarray(params[name]["bias"], np.float32)
        values = dict(zip(("in_features", "out_features"), kernel.shape))
        values |= {"bias": "bias" in params[name], "activation_function": activation}
        dense = folder / f"{len(kinds)}_Dense"
        save_json(dense / "config.json", values)
        save_tensors(dense / "model.safetensors", tensors)
        kinds.append("Dense")
    kinds += ["Normalize"] * config.normalize
    entries = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": _ST + kind}
        for i, kind in enumerate(kinds)
    ]
    save_json(folder / "modules.json", entries)
