"""Lines of text files, gzipped or not, with their numbers."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import UserError

Line = tuple[int, str]


def read_lines(path: Path) -> Iterator[Line]:
    """(number from 1, line without its end) of a UTF-8 file; a name that ends in .gz is unpacked.

    Only a line feed ends a line, so that odd separators stay text.

    Raises:
        UserError: unreadable or undecodable; names file and line.
    """
    number = 0
    try:
        with gzip.open(path) if path.name.endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: not UTF-8", why=str(error), fix="convert it: iconv -t UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}", why=str(error), fix="copy or download it again") from None
