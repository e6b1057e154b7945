"""A tokenizer trained on the run's own texts, in the form of XLM-R's."""

from collections.abc import Iterable
from typing import Any

# XLM-R's ids: <s> 0, <pad> 1, </s> 2, <unk> 3
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"


def train_tokenizer(texts: Iterable[str], size: int, with_mask: bool = False) -> Any:
    """A unigram tokenizer of at most `size` pieces, XLM-R's special tokens and frame included.

    `with_mask` also has a token for those that are to be guessed.

    References:
        Kudo, Subword regularization, arXiv 1804.10959 (the unigram model).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    # words by script and digit as well: scripts without spaces would else give whole clauses
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL_TOKENS, *([MASK] if with_mask else [])],
        unk_token="<unk>",
        show_progress=False,
        max_piece_length=12,
    )
    tokenizer.train_from_iterator(texts, trainer)
    start, pad, end, unknown = SPECIAL_TOKENS
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
