"""http, https and s3 addresses as inputs, through fsspec (an extra)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

from muflow_cli.images.error import ImageError, reason_of
from muflow_cli.images.inputs import Input, InputKind, has_image_name, read_all, why_skipped
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip, Skipped, Why

_SCHEMES: Final = ("http://", "https://", "s3://")
_HTTP_NOT_FOUND: Final = 404
_NEEDED: Final = "reading an address needs an extra; install it with pip install 'muflow-cli[remote]'"


def is_remote(argument: str) -> bool:
    """Whether an argument is an address that this module reads."""
    return argument.lower().startswith(_SCHEMES)


def find_remote(address: str, spec: InputSpec, skip: Skip | None = None) -> Iterator[Input | Unreadable]:
    """The input at an http(s) address, or those below an s3 prefix, ordered by the bytes of their names."""
    try:
        import fsspec

        filesystem, path = fsspec.url_to_fs(address)
    except ImportError:
        yield Unreadable(path=address, code="needs_remote", message=_NEEDED)
        return
    except (OSError, ValueError) as error:
        yield Unreadable(path=address, code="remote_error", message=f"the address cannot be used ({reason_of(error)})")
        return
    if address.lower().startswith("s3:"):
        yield from listed(filesystem, path, address, spec, skip)
    else:
        yield Input(address, InputKind.REMOTE, location=address)


def listed(
    filesystem: Any, path: str, address: str, spec: InputSpec, skip: Skip | None = None
) -> Iterator[Input | Unreadable]:
    """One object, or the images below a prefix, filtered by name as in a folder.

    Args:
        filesystem: an fsspec file system.
        path: as that file system writes it.
        address: as the user typed it; objects below it are reported as address/name.
        spec: what is hidden and excluded.
        skip: called with each object that is no input, of which nothing but its name is read.
    """
    try:
        names = sorted(filesystem.find(path), key=os.fsencode)
    except Exception as error:  # noqa: BLE001  each file system has its own errors; one address is one record
        yield Unreadable(
            path=address, code="remote_error", message=f"the address cannot be listed ({reason_of(error)})"
        )
        return
    if not names:
        yield Unreadable(path=address, code="not_found", message="there is nothing at this address")
    for name in names:
        inner = name.removeprefix(path).strip("/")
        label = f"{address.rstrip('/')}/{inner}" if inner else address
        parts = inner.split("/") if inner else ()
        why = next((why for part in parts if (why := why_skipped(label, part, spec))), None)
        if why is None and inner and not has_image_name(inner):
            why = Why.NOT_AN_IMAGE
        if why is not None and skip is not None:
            skip(Skipped(label, "object without an image's name" if why is Why.NOT_AN_IMAGE else "object", why))
        if why is None:
            yield Input(label, InputKind.REMOTE, location=filesystem.unstrip_protocol(name))


def read_remote(input_: Input, max_bytes: int) -> bytes:
    """The object at `input_.location`.

    Raises:
        ImageError: not_found, too_large, remote_error, needs_remote.
    """
    try:
        import fsspec

        # Not by `fsspec.open`, which reads "::" in the name of an object as a chain of file systems.
        filesystem = fsspec.filesystem(input_.location.partition("://")[0].lower())
        # block_size 0: one streamed request, no cache.
        with filesystem.open(input_.location, "rb", block_size=0) as stream:
            return read_all(stream.read, 2**20, max_bytes)
    except ImportError:
        raise ImageError("needs_remote", _NEEDED) from None
    except ImageError:
        raise
    except FileNotFoundError as error:
        if error.__cause__ is None or getattr(error.__cause__, "status", None) == _HTTP_NOT_FOUND:
            raise ImageError("not_found", "there is nothing at this address") from None
        # fsspec raises this for a server that cannot be reached as well; the cause tells them apart.
        raise ImageError("remote_error", f"the address cannot be fetched ({reason_of(error.__cause__)})") from error
    except Exception as error:
        raise ImageError("remote_error", f"the address cannot be fetched ({reason_of(error)})") from error
