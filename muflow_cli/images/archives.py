"""Archives as inputs: their members are read in place, in stored order, and never extracted to disk."""

from __future__ import annotations

import os
from collections.abc import Iterator

from muflow_cli.images.archive_limits import BROKEN, ZIP, damage, is_archive
from muflow_cli.images.error import ImageError
from muflow_cli.images.inputs import Input, unreadable
from muflow_cli.images.tars import Tar
from muflow_cli.images.zips import zip_inputs
from muflow_cli.records import Unreadable
from muflow_cli.run_specs import InputSpec
from muflow_cli.skipped import Skip


def split(argument: str) -> tuple[str, str]:
    """Archive and member of `faces.zip!a/b.jpg`; ("", "") if no part before a `!` is an archive."""
    at = argument.find("!")
    while at != -1:
        archive = argument[:at]
        if "\0" not in archive and is_archive(archive) and os.path.isfile(archive):
            return archive, argument[at + 1 :]
        at = argument.find("!", at + 1)
    return "", ""


def members(
    path: str, spec: InputSpec, only: str | None = None, skip: Skip | None = None
) -> Iterator[Input | Unreadable]:
    """Images of an archive as `archive.zip!inner/name.jpg`, in stored order; or the one member named `only`.

    The rules for files in a folder decide which members are inputs; devices and symbolic links are not, and an archive
    inside the archive is one record; `skip` is called with what is no input. The name of a member is only a label:
    absolute names and `..` reach nothing on disk. Members of a zip or a plain tar are read later, in
    place; those of a compressed tar are read here, since it cannot be entered in the middle. A damaged, truncated or
    exploding archive ends with one record for the archive.
    """
    any_member = False
    try:
        is_zip = path.lower().endswith(ZIP)
        for member in zip_inputs(path, spec, only, skip) if is_zip else Tar(path, spec, only, skip).inputs():
            any_member = True
            yield member
        if only is not None and not any_member:
            yield Unreadable(path=f"{path}!{only}", code="not_found", message="the archive has no such member")
    except ImageError as error:
        yield unreadable(path, error)
    except BROKEN as error:
        yield unreadable(path, damage(error))
    except MemoryError:
        yield Unreadable(path=path, code="out_of_memory", message="there is not enough memory to read the archive")
