"""The lines of a trace file in blocks, numbered as an editor does, also of compressed files."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from sim.text.outside import MEBI, MOST, bounded, opened
from sim.traces.columns import Array
from sim.traces.digits import PAD, Text, padded

MAX_LINE_BYTES = MOST["line bytes"].most  # memory stays bounded on any file
BLOCK_BYTES = 2**20

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_READ_BYTES = 8192  # at once from a compressed file: as much is lost where it is corrupt
_ZSTD_BYTES = 1024  # packed, at once: they may become 30,000 times as many
_ZSTD_WINDOW = 2**27  # that a file may ask for, as the library has it by default


class TraceError(ValueError):
    """The user's trace file is wrong.  The message names file, row, fault, and a right row."""


class CutShortError(ValueError):
    """A compressed file that ends before its end mark: what came before is sound."""


class Lines(NamedTuple):
    """Lines of a block that are not blank: bytes `start` to `end - 1` of `text`, and their numbers.

    The line end is not among the bytes; a last line that has none is `unended`.
    """

    text: Text
    start: Array
    end: Array
    number: Array
    unended: bool

    def __len__(self) -> int:
        return len(self.start)

    def part(self, start: int, stop: int) -> Lines:
        """Lines `start` to `stop - 1` of these."""
        return Lines(
            text=self.text,
            start=self.start[start:stop],
            end=self.end[start:stop],
            number=self.number[start:stop],
            unended=self.unended and stop >= len(self),
        )

    def line(self, index: int) -> str:
        """One line, and its end if there is one.  Bytes that are not UTF-8 become U+FFFD."""
        data = self.text.data[self.start[index] : self.end[index]].tobytes()
        ended = not self.unended or index < len(self) - 1
        return data.decode("utf-8", "replace") + "\n" * ended

    def joined(self) -> str:
        """All of them as one text; blank lines between them may be among it."""
        data = self.text.data[self.start[0] : self.end[-1]].tobytes() if len(self) else b""
        return data.decode("utf-8", "replace") + "\n"


def blocks(path: Path, block_bytes: int = BLOCK_BYTES) -> Iterator[Lines]:
    """The lines of a file that are not blank, in blocks of about so many bytes.

    Compression is told by the file's content, not by its name; line numbers are those of the
    uncompressed text. Errors: ValueError that says what is wrong, without the file's name: the file
    cannot be opened, is in zstd and the extra is not installed, is corrupt, has an endless line;
    CutShortError for truncated gzip or zstd. All comes after the sound lines before it were
    yielded.
    """
    number = 1  # of the first line in `held`
    held: list[bytes] = []
    size = 0
    due = block_bytes  # when a block is looked at; later where a line goes on from the last one
    row = 1  # behind the last that is not blank
    fault: type[ValueError] | None = None
    try:
        with opened(path) as raw:
            stream = _unpacked(raw)
            packing = "zstd" if isinstance(stream, _Zstd) else "gzip"
            for data in _pieces(stream, block_bytes if stream is raw else _READ_BYTES):
                held.append(data)
                size += len(data)
                if size < due:
                    continue
                block = b"".join(held)
                cut = block.rfind(b"\n") + 1
                held, size = [block[cut:]], len(block) - cut
                due = size + block_bytes
                if cut:
                    _refuse_endless(block.find(b"\n") + 1, number)
                    lines, number = _lines(block[:cut], number)
                    row = int(lines.number[-1]) + 1 if len(lines) else row
                    bounded("blank lines", number - row, f"row {row} and those below it")
                    yield lines
                _refuse_endless(size, number)
    except EOFError:
        fault, why = CutShortError, f"the {packing} data end early,"
        then = "; the file was cut off, fetch it again"
    except (gzip.BadGzipFile, zlib.error, _CorruptError) as error:
        fault, why = ValueError, f"corrupt {packing} data"
        then = f" ({error}); fetch the file again"
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    block = b"".join(held)
    if fault:  # its last line may be half a line
        block = block[: block.rfind(b"\n") + 1]
    if block:
        _refuse_endless(block.find(b"\n") + 1 or len(block), number)
        lines, number = _lines(block, number)
        yield lines
    if fault:
        raise fault(f"{why} after row {number - 1}{then}")


def _pieces(stream: Any, read_bytes: int) -> Iterator[bytes]:
    """What a stream holds, in pieces of a mebibyte at most."""
    while data := stream.read1(read_bytes):
        for at in range(0, len(data), MEBI):
            yield data[at : at + MEBI]


def lines_of(text: bytes) -> Lines:
    """The lines of a whole text."""
    return _lines(text, 1)[0]


def _lines(block: bytes, number: int) -> tuple[Lines, int]:
    """The lines of a block whose first has this number, and the number of the line after it."""
    text = padded(block)
    ends = np.flatnonzero(text.data[PAD : PAD + len(block)] == 10) + PAD
    unended = not block.endswith(b"\n")
    if unended:
        ends = np.append(ends, PAD + len(block))
    starts = np.concatenate(([PAD], ends[:-1] + 1))
    if number == 1 and block.startswith(b"\xef\xbb\xbf"):  # some spreadsheets begin so
        starts[0] += 3
    numbers = np.arange(number, number + len(starts))
    following = number + len(starts)
    first = text.data[starts]
    # Such a line is not blank; others are looked at one by one.
    plain = (first > 32) & (first < 127) & (ends > starts)
    # Nothing but its end, also a CR LF; only lines that begin otherwise are looked at one by one.
    bare = (ends == starts) | ((ends == starts + 1) & (first == 13))
    if bare.any():
        unended = unended and not bare[-1]
        starts, ends, numbers, plain = (each[~bare] for each in (starts, ends, numbers, plain))
    if not plain.all():
        for index in np.flatnonzero(~plain).tolist():
            line = text.data[starts[index] : ends[index]].tobytes().decode("utf-8", "replace")
            plain[index] = bool(line) and not line.isspace()
        unended = unended and bool(plain[-1])
        starts, ends, numbers = starts[plain], ends[plain], numbers[plain]
    return Lines(text, starts, ends, numbers, unended), following


def _refuse_endless(size: int, number: int) -> None:
    if size > MAX_LINE_BYTES:
        raise ValueError(f"row {number} is longer than {MAX_LINE_BYTES // MEBI} MiB")


def _unpacked(raw: Any) -> io.BufferedReader | gzip.GzipFile | _Zstd:
    magic = raw.peek(4)[:4]
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=raw)
    return _Zstd(raw) if magic == _ZSTD else raw


class _CorruptError(Exception):
    """No zstd data."""


class _Zstd:
    """The text of a zstd file of one or more frames.

    Unlike the library's own reader it tells a truncated one: EOFError.
    """

    def __init__(self, raw: BinaryIO):
        try:
            import zstandard
        except ImportError:
            raise ValueError(
                "is zstd-compressed; to read it install the extra: pip install 'podscope[zstd]', "
                "or decompress it first: zstd -d FILE"
            ) from None
        self.raw, self.corrupt = raw, zstandard.ZstdError
        self.fresh = lambda: zstandard.ZstdDecompressor(
            max_window_size=_ZSTD_WINDOW
        ).decompressobj()
        self.frame: Any = None  # that is being read

    def read1(self, size: int, /) -> bytes:
        """Some bytes; none at the end of the file."""
        parts: list[bytes] = []
        while not any(parts):
            packed = self.raw.read(min(size, _ZSTD_BYTES))
            if not packed and self.frame is not None:
                raise EOFError
            if not packed:
                break
            while packed:
                frame = self.frame or self.fresh()
                try:
                    parts.append(frame.decompress(packed))
                except self.corrupt as error:
                    what = str(error).removeprefix("zstd decompress error: ")
                    raise _CorruptError(what) from None
                packed, self.frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        return b"".join(parts)
