"""What the benchmarks' commands share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console

from trainer.errors import UserError


def take_recipe(words: list[str]) -> str | None:
    """The recipe's path, taken off the front of a command's words; None when they are overrides only."""
    return words.pop(0) if words and "=" not in words[0] else None


@contextlib.contextmanager
def no_traceback(console: Console, *others: type[Exception]) -> Iterator[None]:
    """End the command with an error's text alone: a UserError with its own exit code, `others` with 1."""
    try:
        yield
    except UserError as error:
        console.print(str(error), markup=False)
        raise SystemExit(error.exit_code) from None
    except others as error:
        console.print(str(error), markup=False)
        raise SystemExit(1) from None
