"""One kind of error for everything a user can mend."""


class UserError(Exception):
    """What is wrong, why, and what to do next; the command prints it without a traceback and exits with `exit_code`.

    Args:
        what: the fault in one sentence, naming the file, key or value.
        why: the reason, when `what` does not already show it.
        fix: the next command or edit.
    """

    exit_code = 2

    def __init__(self, what: str, *, why: str = "", fix: str = ""):
        super().__init__(what)
        self.what, self.why, self.fix = what, why, fix

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(f"why: {self.why}")
        if self.fix:
            parts.append(f"next: {self.fix}")
        return "\n  ".join(parts)

    def __reduce__(self):  # pickled across the processes of `prepare`
        return _rebuild, (type(self), self.what, self.why, self.fix)


def _rebuild(kind, what, why, fix):
    return kind(what, why=why, fix=fix)


class NoExamples(UserError):
    """There is nothing to read or to score where examples were expected; evaluation skips such a language."""
