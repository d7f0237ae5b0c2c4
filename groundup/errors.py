"""What can go wrong, sorted by whose mend it is: every message says what, where, and the mend, in one sentence."""


class GroundupError(Exception):
    """Something failed while working (exit status 1): a full disk, a loss that is not finite, a broken file."""

    exit_status = 1


class UsageError(GroundupError):
    """Something was asked for wrongly (exit status 2): a bad flag, a missing file, a budget without a unit."""

    exit_status = 2
