"""What a user is meant to see: one line each, without a traceback."""

import errno

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk says


class UserError(Exception):
    """A mistake of the user: one line saying what is wrong, where, and how to mend it."""

    exit_status = 2


class RunError(Exception):
    """A run that cannot go on, through no mistake in what it was told; one line, as above."""

    exit_status = 1
