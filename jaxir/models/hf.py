"""Pretrained models and tokenizers in and out: Hugging Face and sentence-transformers folders.

Only JSON and safetensors are read: no pickle, no code that a folder brings along.
"""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxir
from jaxir.config import DualEncoderConfig
from jaxir.errors import UserError
from jaxir.models.dual_encoder import Params
from jaxir.models.sentence_transformers import (
    modules_of,
    read_dense,
    read_max_tokens,
    read_pooling,
    read_prompts,
    write_modules,
)
from jaxir.models.weights import (
    config_json,
    encoder_tensors,
    read_encoder,
    read_encoder_config,
    read_object,
    save_json,
    save_tensors,
)
from jaxir.runtime.files import replacing
from jaxir.runtime.hub import fetch

_DOWNLOAD = ("*.json", "*.safetensors", "*.txt", "*.model")
_TOKENIZERS = (
    *("BertTokenizer", "BertTokenizerFast", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast"),
    *("PreTrainedTokenizerFast", "TokenizersBackend"),
)
# what tokenizers of these architectures come in
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")


@dataclass
class HuggingFaceModel:
    """A pretrained model: its shape, its float32 parameters, and how it wants its texts."""

    config: DualEncoderConfig
    params: Params
    folder: Path
    query_prefix: str
    passage_prefix: str
    max_tokens: int  # with the special tokens


def local_folder(name: str | os.PathLike) -> Path:
    """The folder itself, or the one that the hub's files of that name were downloaded to.

    A name on the hub is OWNER/NAME, or OWNER/NAME@REVISION: a branch, tag or commit.

    Raises:
        UserError: there is no such folder, nor a model of that name on the hub.
    """
    path = Path(name)
    if path.is_dir():
        return path
    owned = str(name).partition("@")[0]
    if path.exists() or path.is_absolute() or owned.count("/") > 1 or owned[:1] in ".~":
        raise UserError(f"{name}: not a folder; give a folder or the name of a model on the hub")
    return fetch(str(name), "model", _DOWNLOAD, ignored=("*/*/*",))


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
    # transformers would make an empty tokenizer of a folder without one, and every text unknown
    if path.is_dir() and not any((path / file).exists() for file in _VOCABULARIES):
        raise UserError(
            f"{path}: no tokenizer; one of {', '.join(_VOCABULARIES)} is needed in the folder"
        )
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
        raise UserError(f"{path}: the tokenizer lacks a padding, first or last token")
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """What reads a folder's tokenizer."""
    import transformers

    config = folder / "tokenizer_config.json"
    values = read_object(config) if config.exists() else {}
    name = str(values.get("tokenizer_class"))
    # AutoTokenizer would take the same, and import PyTorch where that is installed: seconds
    known = name in _TOKENIZERS and "auto_map" not in values
    return getattr(transformers, name if known else "AutoTokenizer")


def _check_vocabulary(path: Path) -> None:
    """transformers would append special tokens that are not there: ids beyond the embeddings."""
    with path.open(encoding="utf-8") as file:
        pieces = {line.rstrip("\n") for line in itertools.islice(file, 1 << 22)}
    missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - pieces
    if missing:
        raise ValueError(f"a WordPiece vocabulary needs {', '.join(sorted(missing))}")


def _name_special_tokens(tokenizer) -> None:
    """A lone tokenizer.json does not say which of its tokens pad and frame: BERT's or XLM-R's."""
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


def _check_target(folder: Path) -> None:
    """An earlier export may be replaced, and nothing else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    marker = folder / "config_sentence_transformers.json"
    if not (marker.exists() and "jaxir" in read_object(marker).get("__version__", {})):
        raise UserError(f"{folder}: exists and is no export of jaxir; name another folder")


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
    """Write a sentence-transformers folder, whole or not at all; an earlier export is replaced.

    transformers, sentence-transformers and `read_model` read it; `max_tokens` counts the special
    ones too; `card` becomes README.md.

    Raises:
        UserError: the folder holds something else, or cannot be written.
    """
    folder = Path(folder).absolute()
    _check_target(folder)
    with replacing(folder) as new:
        tokenizer.save_pretrained(new)
        save_json(new / "config.json", config_json(config.encoder, tokenizer))
        save_tensors(new / "model.safetensors", encoder_tensors(config, params))
        write_modules(new, config, params)
        limit = {
            "max_seq_length": max_tokens,
            "do_lower_case": False,
            "model_args": {"add_pooling_layer": False},  # of BERT, which nothing uses
        }
        save_json(new / "sentence_bert_config.json", limit)
        prompts = {
            "__version__": {"jaxir": jaxir.__version__},
            "prompts": {"query": query_prefix, "document": passage_prefix},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine" if config.normalize else "dot",
        }
        save_json(new / "config_sentence_transformers.json", prompts)
        if card:
            (new / "README.md").write_text(card, encoding="utf-8")
