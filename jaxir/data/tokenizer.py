"""A tokenizer trained on the run's own texts, with XLM-R's special tokens."""

from collections.abc import Iterable
from typing import Any

# XLM-R's ids: <s> 0, <pad> 1, </s> 2, <unk> 3
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
LONGEST_PIECE = 12  # characters; scripts without spaces would otherwise give whole clauses


def train_tokenizer(
    texts: Iterable[str], size: int, with_mask: bool = False, kind: str = "unigram"
) -> Any:
    """Train a tokenizer that puts XLM-R's special tokens around a text.

    Args:
        texts: to train it on.
        size: of its vocabulary at most, special tokens included.
        with_mask: add a mask token, for masked language modelling.
        kind: "unigram" as XLM-R's; its first pieces are what different words share, so that a few
            hundred words are mostly spelled. "bpe" makes whole pieces of those.

    References:
        Kudo, Subword regularization, arXiv 1804.10959 (the unigram model); Sennrich et al., Neural
        machine translation of rare words with subword units, arXiv 1508.07909 (BPE).
    """
    from tokenizers import decoders, normalizers, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    start, pad, end, unknown = SPECIAL_TOKENS
    tokenizer, trainer = _model_and_trainer(kind, size, [MASK] if with_mask else [])
    tokenizer.normalizer = normalizers.NFKC()
    # words are divided at spaces, and every digit is a piece of its own
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {end} $B {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        cls_token=start,
        eos_token=end,
        sep_token=end,
        pad_token=pad,
        unk_token=unknown,
        **({"mask_token": MASK} if with_mask else {}),
    )


def _model_and_trainer(kind: str, size: int, mask: list[str]) -> tuple[Any, Any]:
    """An untrained tokenizer of that kind, and its trainer."""
    from tokenizers import Tokenizer, models, trainers

    unknown = SPECIAL_TOKENS[3]
    options: dict[str, Any] = {
        "vocab_size": size,
        "special_tokens": [*SPECIAL_TOKENS, *mask],
        "show_progress": False,
    }
    if kind == "bpe":
        options["max_token_length"] = LONGEST_PIECE
        return Tokenizer(models.BPE(unk_token=unknown)), trainers.BpeTrainer(**options)
    options |= {"unk_token": unknown, "max_piece_length": LONGEST_PIECE}
    return Tokenizer(models.Unigram()), trainers.UnigramTrainer(**options)
