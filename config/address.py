"""Where to listen, in Go's notation."""

import ipaddress
import re
from dataclasses import dataclass

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_.-]{1,253}")
_ALL = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - not bound here
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host, by name or address without brackets, and a port; the host of all addresses, v4 and v6, is empty."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> ListenAddress:
    """Return the address in `HOST:PORT`, `[V6]:PORT` or `:PORT`; ValueError says what is wrong.

    As in Go, 0.0.0.0 and [::] both mean all addresses, of both families.
    """
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ValueError("expected HOST:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = _v6(host[1:-1])
    elif ":" in host:
        raise ValueError("expected HOST:PORT; an IPv6 address stands in brackets: [::1]:8080")
    elif host and not _is_host(host):
        raise ValueError("expected an address or the name of a host before the colon")
    if not _NUMBER.fullmatch(port_text) or int(port_text) > 65535:
        raise ValueError("expected a port from 0 to 65535 after the colon")
    return ListenAddress("" if host in _ALL else host, int(port_text))


def _v6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError("expected an IPv6 address in the brackets") from None


def _is_host(text: str) -> bool:
    if re.fullmatch(r"[0-9.]+", text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(text) is not None
