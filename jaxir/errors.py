"""Errors that users see as one line, without a traceback."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a full disk


class UserError(Exception):
    """A mistake of the user: one line saying what is wrong, where, and how to mend it."""

    exit_status = 2


class RunError(Exception):
    """A failure of a run that no config or flag caused; one line, as above."""

    exit_status = 1
