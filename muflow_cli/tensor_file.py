"""A .safetensors file of which every byte is accounted for: written in one spelling, read once, never mapped.

The library of that format maps a file, so that whoever writes to it changes the tensors of a running scan, and it
passes over bytes that mean nothing to it. Here the header must be, byte for byte, the one that `write` would write for
the same tensors and metadata; what tensors and metadata say is for the caller to check.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from muflow_cli.canonical import canonical_json
from muflow_cli.files import OutputFile

# A header of one branch holds 40 KB; Python needs some 30 bytes of memory for each byte of JSON.
LARGEST_HEADER: Final = 4 * 2**20
LARGEST_FILE: Final = 8 * 2**30
_LARGEST_SIDE: Final = 2**40
_METADATA: Final = "__metadata__"

# In the order in which tensors are stored: by type, then by name.
DTYPES: Final = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "U8": torch.uint8,
}
_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}
_RANKS: Final = {name: rank for rank, name in enumerate(DTYPES)}


class BadTensorFile(ValueError):
    """A file that is cut, or that `write` did not write."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Type and shape of a tensor, as the header gives them."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Length of its data."""
        return self.count * DTYPES[self.dtype].itemsize

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        """The entry of `tensor`, which may be on the meta device; KeyError for a type that is not stored."""
        return cls(_NAMES[tensor.dtype], tuple(tensor.shape))


def _in_order(entries: Mapping[str, Entry]) -> list[str]:
    return sorted(entries, key=lambda name: (_RANKS[entries[name].dtype], name))


def header_of(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    """The first bytes of a file of these tensors: the length of the JSON, the JSON, spaces up to a multiple of 8."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    start = 0
    for name in _in_order(entries):
        entry = entries[name]
        stop = start + entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write(stream: OutputFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write contiguous CPU tensors to `stream`.

    Raises:
        CannotWrite: with the system's reason.
    """
    entries = {name: Entry.of(tensor) for name, tensor in tensors.items()}
    stream.write(header_of(entries, metadata))
    for name in _in_order(entries):
        if entries[name].nbytes:
            stream.write(tensors[name].reshape(-1).view(torch.uint8).numpy().data)


@dataclass(frozen=True)
class Header:
    """The beginning of an open file, parsed but not trusted.

    Attributes:
        raw: its bytes, the length included.
        content: the JSON in it.
        file_bytes: length of the whole file.
    """

    raw: bytes
    content: Mapping[str, Any]
    file_bytes: int

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata; empty where there are none."""
        metadata = self.content.get(_METADATA)
        return metadata if isinstance(metadata, dict) else {}

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The tensors by name.

        Raises:
            BadTensorFile: where a byte of the header or the file's length is not what these tensors need.
        """
        own = {name: _entry(value) for name, value in self.content.items() if name != _METADATA}
        try:
            expected = header_of(own, self.metadata)
        except (TypeError, ValueError, RecursionError):  # metadata that are not text
            raise BadTensorFile from None
        if expected != self.raw or len(expected) + sum(entry.nbytes for entry in own.values()) != self.file_bytes:
            raise BadTensorFile
        return own

    def read(self, file: FileIO) -> Content:
        """The tensors, which are in memory and independent of the file.

        Args:
            file: as `read_header` left it.

        Raises:
            BadTensorFile: where the file is damaged, or became shorter.
            OSError: where it cannot be read.
        """
        entries = self.entries
        data = np.empty(self.file_bytes - len(self.raw), dtype=np.uint8)
        _fill(file, data)
        tensors, start = {}, 0
        for name in _in_order(entries):
            entry = entries[name]
            tensors[name] = (
                torch.frombuffer(data, dtype=DTYPES[entry.dtype], count=entry.count, offset=start).reshape(entry.shape)
                if entry.count
                else torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
            )
            start += entry.nbytes
        return Content(tensors, self.raw, data)


@dataclass(frozen=True, eq=False)
class Content:
    """A whole file in memory.

    Attributes:
        tensors: by name; they are views of `data`.
        raw: the header's bytes.
        data: the rest of the file.
    """

    tensors: dict[str, Tensor]
    raw: bytes
    data: NDArray[np.uint8]

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the whole file as it was read, as `sha256sum` prints it; computed when it is first asked for."""
        digest = hashlib.sha256(self.raw)
        digest.update(self.data.data)
        return digest.hexdigest()


def read_header(file: FileIO) -> Header:
    """The header of a file that was just opened.

    Raises:
        BadTensorFile: where there is none that can be read.
        OSError: where the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(_read(file, 8), "little") if size >= 8 else 0
    if not 2 <= length <= min(LARGEST_HEADER, size - 8) or size > LARGEST_FILE:
        raise BadTensorFile
    text = _read(file, length)
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError):
        raise BadTensorFile from None
    if not isinstance(content, dict):
        raise BadTensorFile
    return Header(length.to_bytes(8, "little") + text, content, size)


def _entry(value: object) -> Entry:
    match value:
        case {"dtype": str() as dtype, "shape": list() as shape} if dtype in DTYPES and len(shape) <= 8:
            if all(type(side) is int and 0 <= side <= _LARGEST_SIDE for side in shape):
                return Entry(dtype, tuple(shape))
    raise BadTensorFile


def _read(file: FileIO, count: int) -> bytes:
    data = np.empty(count, dtype=np.uint8)
    _fill(file, data)
    return data.tobytes()


def _fill(file: FileIO, data: NDArray[np.uint8]) -> None:
    rest = data.data
    while rest:
        count = file.readinto(rest)
        if not count:
            raise BadTensorFile
        rest = rest[count:]


def hash_tensors(tensors: Mapping[str, Tensor], settings: object) -> str:
    """SHA-256 over the canonical JSON of `settings`, then over name, dtype, shape and bytes of each tensor, sorted."""
    digest = hashlib.sha256(canonical_json(settings))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical_json([name, str(tensor.dtype), list(tensor.shape)]))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
