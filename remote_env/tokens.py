"""Where the command line takes its token from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from remote_env.errors import ConfigurationError

__all__ = ["read_token"]

_TOKEN_VARIABLE: Final = "REMOTE_ENV_TOKEN"  # noqa: S105 (the name of a variable)


def read_token(path: Path | None) -> str | None:
    """Return the first line of a file, or without one what REMOTE_ENV_TOKEN holds, if anything.

    Raises:
        ConfigurationError: If the file holds none.
    """
    if path is None:
        return os.environ.get(_TOKEN_VARIABLE)
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigurationError(f"cannot read the token from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the token file {path} is no text") from error
    if not lines or not lines[0].strip():
        raise ConfigurationError(f"the first line of the token file {path} is empty")
    return lines[0].strip()
