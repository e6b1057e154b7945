"""A tokenizer trained on the run's own texts, in the frame of XLM-R's."""

from collections.abc import Iterable
from typing import Any

# XLM-R's ids: <s> 0, <pad> 1, </s> 2, <unk> 3
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
LONGEST_PIECE = 12  # characters


def train_tokenizer(
    texts: Iterable[str], size: int, with_mask: bool = False, kind: str = "unigram"
) -> Any:
    """A tokenizer of at most `size` pieces, XLM-R's special tokens and frame included.

    Args:
        texts: to train it on.
        size: of its vocabulary.
        with_mask: it also has a token for those that are to be guessed.
        kind: "unigram" as XLM-R's; its first pieces are what different words share, so that a few
            hundred words are mostly spelled. "bpe" makes whole pieces of those.

    References:
        Kudo, Subword regularization, arXiv 1804.10959 (the unigram model); Sennrich et al., Neural
        machine translation of rare words with subword units, arXiv 1508.07909 (BPE).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special_tokens = [*SPECIAL_TOKENS, *([MASK] if with_mask else [])]
    start, pad, end, unknown = SPECIAL_TOKENS
    trainer: trainers.Trainer
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE(unk_token=unknown))
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special_tokens,
            show_progress=False,
            max_token_length=LONGEST_PIECE,
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=size,
            special_tokens=special_tokens,
            unk_token=unknown,
            show_progress=False,
            max_piece_length=LONGEST_PIECE,
        )
    tokenizer.normalizer = normalizers.NFKC()
    # words by script and digit as well: scripts without spaces would else give whole clauses
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
