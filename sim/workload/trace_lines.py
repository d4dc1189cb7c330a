"""The lines of a trace file, numbered as an editor numbers them, whether or not the file is gzipped."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path

MAX_LINE_BYTES = 16 * 2**20  # a longer line is no row of a trace; memory stays bounded on any file

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class CutShortError(ValueError):
    """A gzip file that ends before its end mark: what came before is sound, what comes after is missing."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(1-based number, line with its line end) of each line that is not blank, one at a time.

    Compression is told by the file's content, not by its name; line numbers are those of the uncompressed text. Bytes
    that are not UTF-8 become U+FFFD, which no number contains. Errors: ValueError that says what is wrong, without the
    file's name: the file cannot be opened, is in zstd, is corrupt gzip, has an endless line; CutShortError for a
    truncated gzip.
    """
    number = 0
    try:
        with open(path, "rb") as raw:
            magic = raw.read(4)
            if magic == _ZSTD:
                raise ValueError("is zstd-compressed, which is not read here; decompress it first: zstd -d FILE")
            raw.seek(0)
            packed = magic.startswith(_GZIP)
            stream: io.BufferedIOBase = gzip.GzipFile(fileobj=raw) if packed else raw
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise ValueError(f"row {number} is longer than {MAX_LINE_BYTES // 2**20} MiB")
                text = line.decode("utf-8", "replace")
                if number == 1:
                    text = text.removeprefix("\ufeff")  # some spreadsheets begin a CSV with a byte order mark
                if text and not text.isspace():
                    yield number, text
    except EOFError:
        raise CutShortError(
            f"the gzip data end early, after row {number}; the file was cut off, fetch it again"
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"corrupt gzip data after row {number} ({error}); fetch the file again") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
