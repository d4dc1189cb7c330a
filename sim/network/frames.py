"""Frames of the connection between an edge and a cloud that train together: what they look like and
how many bytes they take.  No socket, no clock, no tensor.

Big-endian. A header of 44 bytes: magic, version, kind, run (16 bytes), number, length of the
payload, CRC-32 of the payload, CRC-32 of the header before it. A payload that does not match its
sum is dropped and the next frame can still be read; after a bad header nothing can.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from sim.network.protocol import Progress

VERSION = 1
MAGIC = b"PSEC"
HEADER = struct.Struct(">4sHBx16sQIII")
FEATURES = struct.Struct(">IHHHHBxf")  # batch, samples, channels, rows, columns, format, scale
PROGRESS = struct.Struct(">QQQ")
LABEL_BYTES = 2
NONCE_BYTES = PROOF_BYTES = 32
MOST_BYTES = 64 * 2**20  # default cap of a frame
FORMATS = {"int8": 1, "fp16": 2, "fp32": 4}  # bytes of an element; on the wire the format's number


class Kind(IntEnum):
    """What a frame is."""

    challenge = 1  # cloud: a nonce
    hello = 2  # edge: a nonce, a proof of the token, its plan
    welcome = 3  # cloud: a proof of the token, its progress
    refuse = 4  # cloud: why not
    features = 5  # edge: a feature map and its labels
    progress = 6  # cloud
    bye = 7  # edge: all is done


class Frame(NamedTuple):
    """One that was read."""

    kind: Kind
    number: int
    payload: bytes


class RejectedError(ValueError):
    """A frame that is not taken. `lost`: where the next one begins is not known either."""

    def __init__(self, why: str, what: str, lost: bool) -> None:
        super().__init__(what)
        self.why, self.lost = why, lost


def run_id(name: str) -> bytes:
    """16 bytes that stand for a run."""
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def frame_bytes(samples: int, elements: int, features: str = "fp32") -> int:
    """What the batch takes on the wire: `samples` feature maps of `elements` each, in format
    `features`, with their labels. Exact."""
    each = LABEL_BYTES + elements * FORMATS[features]
    return HEADER.size + FEATURES.size + samples * each


def packed(kind: Kind, run: bytes, number: int, payload: bytes, version: int = VERSION) -> bytes:
    """A frame."""
    fields = (MAGIC, version, kind, run, number, len(payload), zlib.crc32(payload))
    head = HEADER.pack(*fields, 0)[:-4]
    return head + struct.pack(">I", zlib.crc32(head)) + payload


def read_frame(read: Callable[[int], bytes], run: bytes, most_bytes: int = MOST_BYTES) -> Frame:
    """The next frame of `read(n)`, which gives n bytes. RejectedError says what is wrong with
    it."""
    head = read(HEADER.size)
    magic, version, kind, of, number, length, crc, head_crc = HEADER.unpack(head)
    if magic != MAGIC:
        raise RejectedError("foreign", "what came is no frame of podscope", lost=True)
    if zlib.crc32(head[:-4]) != head_crc:
        raise RejectedError("corrupted", "the header of a frame is corrupted", lost=True)
    if length > most_bytes:
        what = f"a frame of {length} bytes is larger than the cap of {most_bytes}"
        raise RejectedError("oversized", what, lost=True)
    if version != VERSION and kind != Kind.refuse:
        what = f"the other side speaks version {version} of the protocol, this one {VERSION}"
        raise RejectedError("version", what, lost=True)
    payload = read(length)
    if of != run and kind not in (Kind.refuse, Kind.challenge):
        raise RejectedError("foreign", f"frame {number} is of another run", lost=False)
    if zlib.crc32(payload) != crc:
        raise RejectedError("corrupted", f"frame {number} is corrupted", lost=False)
    if kind not in [*Kind]:
        raise RejectedError("foreign", f"frame {number} is of an unknown kind {kind}", lost=False)
    return Frame(Kind(kind), number, payload)


def proof(token: bytes, who: str, nonce: bytes, run: bytes) -> bytes:
    """That `who` knows the token, without saying it."""
    return hmac.new(token, who.encode() + nonce + run, hashlib.sha256).digest()


def same(a: bytes, b: bytes) -> bool:
    """In constant time."""
    return hmac.compare_digest(a, b)


def packed_progress(said: Progress) -> bytes:
    """The payload of a Progress."""
    return PROGRESS.pack(*said)


def read_progress(payload: bytes) -> Progress:
    """RejectedError if it is none."""
    if len(payload) != PROGRESS.size:
        raise RejectedError("corrupted", "a progress of a wrong length", lost=False)
    return Progress(*PROGRESS.unpack(payload))


class TokenBucket:
    """A channel of `bytes_per_s` after a burst of `burst_bytes`, in its own time: `passed(n, at)`
    is when the last of n bytes that come at `at` has passed. ValueError for a rate that is not
    above 0."""

    def __init__(self, bytes_per_s: float, burst_bytes: float = 0.0) -> None:
        if not bytes_per_s > 0:
            raise ValueError(f"a link of {bytes_per_s:g} B/s carries nothing; give a rate above 0")
        self.bytes_per_s, self.burst_s = bytes_per_s, burst_bytes / bytes_per_s
        self._free_s = float("-inf")

    def passed(self, nbytes: int, at_s: float) -> float:
        """Seconds on the caller's clock; calls come in the order of `at_s`."""
        self._free_s = max(self._free_s, at_s - self.burst_s) + nbytes / self.bytes_per_s
        return max(at_s, self._free_s)
