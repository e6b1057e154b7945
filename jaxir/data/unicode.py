"""Halves of surrogate pairs, which JSON can spell and neither a tokenizer nor a file can take."""

from jaxir.errors import UserError


def check_unicode(text: str, what: str) -> str:
    """The text, if it can be encoded.

    Args:
        text: from a file or a user.
        what: it is, for the message.

    Raises:
        UserError: it holds half a surrogate pair.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} holds half a surrogate pair; mend it") from None
    return text
