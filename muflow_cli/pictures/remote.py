"""http, https and s3 addresses as inputs, through fsspec (an extra)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any, Final

from muflow_cli.pictures.decode import PictureError
from muflow_cli.pictures.sources import Source, has_picture_name, is_skipped, read_all
from muflow_cli.records import Unreadable
from muflow_cli.specs import InputSpec

_SCHEMES: Final = ("http://", "https://", "s3://")
_HTTP_NOT_FOUND: Final = 404
_NEEDED: Final = "reading from an address needs an extra: pip install 'muflow-cli[remote]'"


def is_remote(argument: str) -> bool:
    """Whether an argument is an address of a kind read here."""
    return argument.lower().startswith(_SCHEMES)


def find_remote(address: str, spec: InputSpec) -> Iterator[Source | Unreadable]:
    """The input at an http(s) address, or those below an s3 prefix, in the order of their names' bytes."""
    try:
        import fsspec

        filesystem, path = fsspec.url_to_fs(address)
    except ImportError:
        yield Unreadable(path=address, code="needs_remote", message=_NEEDED)
        return
    except (OSError, ValueError) as error:
        yield Unreadable(path=address, code="remote_error", message=f"the address cannot be used ({error})")
        return
    if address.lower().startswith("s3:"):
        yield from listed(filesystem, path, address, spec)
    else:
        yield _source(filesystem, path, address)


def listed(filesystem: Any, path: str, address: str, spec: InputSpec) -> Iterator[Source | Unreadable]:
    """One object, or the pictures below a prefix, filtered by name as in a folder.

    Args:
        filesystem: of fsspec.
        path: as that file system writes it.
        address: as the user wrote it; objects below are reported as address/name.
        spec: what is hidden or excluded.
    """
    try:
        names = sorted(filesystem.find(path), key=os.fsencode)
    except Exception as error:  # noqa: BLE001  each file system has its own errors; one address is one record
        yield Unreadable(path=address, code="remote_error", message=f"it cannot be listed ({_reason(error)})")
        return
    if not names:
        yield Unreadable(path=address, code="not_found", message="nothing lies at this address")
    for name in names:
        inner = name.removeprefix(path).strip("/")
        label = f"{address.rstrip('/')}/{inner}" if inner else address
        skipped = any(is_skipped(label, part, spec) for part in inner.split("/")) if inner else False
        if not skipped and (not inner or has_picture_name(inner)):
            yield _source(filesystem, name, label)


def _source(filesystem: Any, path: str, address: str) -> Source:
    return Source(address, functools.partial(_read, filesystem, path))


def _read(filesystem: Any, path: str, max_bytes: int) -> bytes:
    try:
        with filesystem.open(path, "rb", block_size=0) as stream:  # block_size 0: one streamed request, no cache
            return read_all(stream.read, 2**20, max_bytes)
    except PictureError:
        raise
    except FileNotFoundError as error:
        if error.__cause__ is None or getattr(error.__cause__, "status", None) == _HTTP_NOT_FOUND:
            raise PictureError("not_found", "nothing lies at this address") from None
        # fsspec says this of a server that cannot be reached, too; the cause says what it was.
        raise PictureError("remote_error", f"it cannot be fetched ({_reason(error.__cause__)})") from error
    except Exception as error:
        raise PictureError("remote_error", f"it cannot be fetched ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
