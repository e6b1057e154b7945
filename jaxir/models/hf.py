"""Reading and writing pretrained models and tokenizers: Hugging Face's folders.

They are folders of transformers or sentence-transformers, local or on the hub. Only JSON and
safetensors are read: no pickle, no code that a folder brings along.
"""

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxir.config import DualEncoderConfig
from jaxir.errors import UserError
from jaxir.models.config_files import config_json, read_encoder_config, read_object, save_json
from jaxir.models.dual_encoder import Params
from jaxir.models.sentence_transformers import (
    modules_of,
    read_dense,
    read_max_tokens,
    read_pooling,
    read_prompts,
    write_modules,
)
from jaxir.models.weights import encoder_tensors, read_encoder, save_tensors
from jaxir.runtime.files import check_target, replacing
from jaxir.runtime.hub import fetch
from jaxir.runtime.versions import VERSION

_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
_PROMPTS_FILE = "config_sentence_transformers.json"
# classes that read a tokenizer's folder without PyTorch
_TOKENIZER_CLASSES = (
    *("BertTokenizer", "BertTokenizerFast", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
    *("PreTrainedTokenizerFast", "TokenizersBackend"),
)
# the files that hold the vocabulary of these architectures' tokenizers
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")


@dataclass
class HuggingFaceModel:
    """A pretrained model: config, float32 parameters, prefixes and maximum length."""

    config: DualEncoderConfig
    params: Params
    folder: Path
    query_prefix: str
    passage_prefix: str
    max_tokens: int  # with the special tokens


def local_folder(
    name: str | os.PathLike,
    kind: str = "model",
    patterns: Sequence[str] = _MODEL_FILES,
    ignored: Sequence[str] = ("*/*/*",),
) -> Path:
    """The folder of that name, or the cached one of the hub's files, downloaded if need be.

    Args:
        name: a folder, or OWNER/NAME on the hub, or OWNER/NAME@REVISION: a branch, tag or commit.
            The oldest models on the hub have no OWNER.
        kind: model or dataset.
        patterns: files that are needed from the hub.
        ignored: files among those that are not.

    Raises:
        UserError: there is no such folder, and nothing of that name on the hub.
    """
    path = Path(name)
    if path.is_dir():
        return path
    repository = str(name).partition("@")[0]
    has_owner = repository.count("/") == 1 or (kind == "model" and "/" not in repository)
    if path.exists() or path.is_absolute() or not has_owner or repository[:1] in ".~":
        raise UserError(f"{name}: not a folder; give one, or OWNER/NAME of a {kind} on the hub")
    return fetch(str(name), kind, patterns, ignored)


def read_model(name: str | os.PathLike) -> HuggingFaceModel:
    """Read a local folder or a hub name: transformers' files, or sentence-transformers'.

    A plain transformers folder gets the defaults of `DualEncoderConfig` (mean pooling, L2) and no
    prefixes.

    Raises:
        UserError: names the file, field or tensor that is missing, damaged or unsupported.
    """
    folder = local_folder(name)
    modules = modules_of(folder)
    base = modules[0][1] if modules else folder
    config = DualEncoderConfig(encoder=read_encoder_config(base / "config.json"))
    params = {"encoder": read_encoder(base, config)}
    if modules:
        config.normalize = modules[-1][0] == "Normalize"
    for kind, path in modules:
        if kind == "Pooling":
            read_pooling(path / "config.json", config)
        elif kind == "Dense":
            read_dense(path, config, params)
    query, passage = read_prompts(folder)
    max_tokens = read_max_tokens(base, config.encoder)
    return HuggingFaceModel(config, params, folder, query, passage, max_tokens)


def read_tokenizer(name: str | os.PathLike) -> Any:
    """A transformers tokenizer from a folder, a hub name, or a WordPiece `vocab.txt` (cased).

    Raises:
        UserError: there is no tokenizer, or it does not say what pads and frames a text.
    """
    from transformers import BertTokenizer, PreTrainedTokenizerFast

    path = Path(name)
    if not path.is_file():
        path = local_folder(name)
    # from a folder without a vocabulary transformers makes an empty tokenizer, which maps every
    # text to unknown tokens
    if path.is_dir() and not any((path / file).exists() for file in _VOCABULARIES):
        raise UserError(f"{path}: no tokenizer; the folder needs one of {', '.join(_VOCABULARIES)}")
    if path.is_dir() and not (path / "tokenizer_config.json").exists():
        alone = [path / file for file in ("tokenizer.json", "vocab.txt")]
        path = next((file for file in alone if file.exists()), path)
    tokenizer: Any
    try:
        if path.suffix == ".txt":
            _check_vocabulary(path)
            tokenizer = BertTokenizer(vocab=str(path), do_lower_case=False)
        elif path.suffix == ".json":
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path))
            _name_special_tokens(tokenizer)
        else:
            tokenizer = _tokenizer_class(path).from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: no tokenizer that transformers can read ({reason})") from error
    if None in (tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise UserError(
            f"{path}: the tokenizer has no padding, first ([CLS]) or last ([SEP]) token; name them "
            "in tokenizer_config.json"
        )
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """The class that reads a folder's tokenizer."""
    import transformers

    config = folder / "tokenizer_config.json"
    values = read_object(config) if config.exists() else {}
    name = str(values.get("tokenizer_class"))
    # AutoTokenizer would choose the same class, but takes seconds to import PyTorch if installed
    known = name in _TOKENIZER_CLASSES and "auto_map" not in values
    return getattr(transformers, name if known else "AutoTokenizer")


def _check_vocabulary(path: Path) -> None:
    """Check that a WordPiece vocabulary holds BERT's special tokens.

    transformers would append the missing ones, with ids beyond the embedding table.
    """
    with path.open(encoding="utf-8") as file:
        pieces = {line.rstrip("\n") for line in itertools.islice(file, 1 << 22)}
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - pieces
    if missing:
        raise ValueError(f"a WordPiece vocabulary needs {', '.join(sorted(missing))}")


def _name_special_tokens(tokenizer) -> None:
    """Set the special tokens of BERT or XLM-R, which a lone tokenizer.json does not name."""
    vocabulary = tokenizer.get_vocab()
    for role, names in {
        "pad": ("<pad>", "[PAD]"),
        "cls": ("<s>", "[CLS]"),
        "sep": ("</s>", "[SEP]"),
        "unk": ("<unk>", "[UNK]"),
        "mask": ("<mask>", "[MASK]"),
    }.items():
        known = [name for name in names if name in vocabulary]
        if known:
            setattr(tokenizer, f"{role}_token", known[0])


def _is_export(folder: Path) -> bool:
    """True for a folder that `write_model` wrote."""
    path = folder / _PROMPTS_FILE
    return path.exists() and "jaxir" in read_object(path).get("__version__", {})


def write_model(
    folder: str | os.PathLike,
    config: DualEncoderConfig,
    params: Params,
    tokenizer,
    *,
    query_prefix: str,
    passage_prefix: str,
    max_tokens: int,
    card: str = "",
) -> None:
    """Write a sentence-transformers folder, atomically; an earlier export is replaced.

    transformers, sentence-transformers and `read_model` read it.

    Args:
        folder: to be written.
        config: the model's shape.
        params: its parameters.
        tokenizer: of transformers.
        query_prefix: before each query.
        passage_prefix: before each passage.
        max_tokens: longer texts are cut; special tokens count.
        card: text of README.md; "": none is written.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder).absolute()
    check_target(folder, "export", _is_export)
    with replacing(folder) as new:
        tokenizer.save_pretrained(new)
        save_json(new / "config.json", config_json(config.encoder, tokenizer))
        save_tensors(new / "model.safetensors", encoder_tensors(config, params))
        write_modules(new, config, params)
        limit = {
            "max_seq_length": max_tokens,
            "do_lower_case": False,
            "model_args": {"add_pooling_layer": False},  # BERT's own pooler is unused
        }
        save_json(new / "sentence_bert_config.json", limit)
        prompts = {
            "__version__": {"jaxir": VERSION},
            "prompts": {"query": query_prefix, "document": passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if config.normalize else "dot",
        }
        save_json(new / _PROMPTS_FILE, prompts)
        if card:
            (new / "README.md").write_text(card, encoding="utf-8")
