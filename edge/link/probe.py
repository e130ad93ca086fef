"""What answers at a URL: a verifier, an endpoint of the OpenAI kind, or neither."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Literal

from ...common.errors import CloudError, ConfigError
from .http import HttpLink
from .openai import OpenAiEndpoint
from .protocol import Deadline

Kind = Literal["verifier", "openai"]

_SECONDS = 5.0


def kind_of(
    url: str, key: str | None = None, timeout: float = 2.0, ca_file: str | Path | None = None
) -> Kind | None:
    """A verifier answers /v1/info, an endpoint lists its models; None: neither does.

    No text of the user is sent.

    Args:
        url: a base URL.
        key: sent to both paths; only over https, or to loopback.
        timeout: seconds for a connection.
        ca_file: certificates to trust instead of the system's.

    Raises:
        ConfigError: the URL is none, or the key would travel in the clear.
    """
    try:
        HttpLink(url, key, timeout, ca_file).info(Deadline(_SECONDS))
        return "verifier"
    except CloudError:
        pass
    with closing(OpenAiEndpoint(url, None, key, timeout, _SECONDS, ca_file)) as endpoint:
        try:
            endpoint.connect()
        except ConfigError:  # it lists more than one
            pass
        except CloudError:
            return None
        return "openai"
