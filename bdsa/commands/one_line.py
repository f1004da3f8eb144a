"""Errors that a user can mend, as the one line that every command says: ours, the file system's, the config's."""
from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from bdsa.config.quoting import quoted_argument
from bdsa.errors import UserError

# What the file system refuses; any other OSError, such as a lost connection, is nothing that a path can mend.
_FILES = {getattr(errno, name) for name in (
    "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "EEXIST", "ENOENT", "ELOOP",
    "EIO", "EFBIG", "EMFILE", "ENFILE", "ESTALE", "ENOTEMPTY", "EXDEV", "EBUSY") if hasattr(errno, name)}


def as_user_error(error: BaseException) -> UserError | None:
    """The error in a user's words, or None for one that is a fault of the code."""
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _of_config(error)
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _FILES:
        where = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return UserError(f"{where or 'a file'}: {error.strerror or type(error).__name__}")
    return None


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """End the process with code 1 and one line for an error that a user can mend."""
    try:
        yield
    except Exception as error:
        if (said := as_user_error(error)) is None:
            raise
        sys.exit(f"error: {said}")


def _of_config(error: Exception) -> UserError:
    """What Hydra or OmegaConf say, without the lines for those who know their insides; ours where a resolver met it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        cause = cause.__cause__ or cause.__context__
    told = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in told if line and not line.startswith(("full_key:", "object_type=", "See https")))
    if text.startswith("Ambiguous value for argument '"):
        argument = text.removeprefix("Ambiguous value for argument '").partition("' 1. ")[0]
        said = f"{argument} is several values: --multirun runs each of them"
        if re.fullmatch(r"[\[\]\d\s,.e+-]*", argument.partition("=")[2]):  # lists or numbers, and no text with commas
            return UserError(said)
        return UserError(f"{said}; as one value, quoted for a shell: {quoted_argument(argument)}")
    key = getattr(error, "full_key", None)
    return UserError(f"{key}: {text}" if key else text)
