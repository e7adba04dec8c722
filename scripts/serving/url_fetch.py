"""Fetch a photo from a URL that a stranger names, and reach nothing but what the deployer allowed.

A name must be one of the deployer's, and is resolved once; every address that it resolves to must
be public; the connection goes to the address that was checked, with the certificate checked against
the name. No proxy, no redirect, one deadline for all of it.
"""

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Collection
from typing import TypeVar
from urllib.parse import urlsplit

from serving.request_errors import RequestError

MAX_BYTES = 5_000_000
SECONDS = 5.0
HTTPS = 443
MAX_URL = 2048  # characters
# Names only, in lower case: the last label of a number in any notation (127.1, 0x7f000001) begins
# with a digit, and no trailing dot makes a second name of the same host.
_HOST_NAME = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]")
_URL_CHARACTERS = re.compile(r"[!-\[\]-~]+")  # printable ASCII without space and backslash
# Global unicast but for what leads into another network, or nowhere: IETF's own (Teredo among
# them), documentation, 6to4.
_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
_SPECIAL_IPV6 = [
    ipaddress.ip_network(net) for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
# IETF's own, and relays into 6to4.
_SPECIAL_IPV4 = [ipaddress.ip_network(net) for net in ("192.0.0.0/24", "192.88.99.0/24")]


def check_hosts(hosts: Collection[str]) -> frozenset[str]:
    """Return the hosts that the deployer allows.

    Raises: ValueError: one is not a plain host name in lower case.
    """
    for host in hosts:
        if not _HOST_NAME.fullmatch(host):
            raise ValueError(
                f"{host!r} is no host name such as photos.example.com (lower case, no address, no "
                "port, no wildcard)."
            )
    return frozenset(hosts)


def fetch_photo(url: str, allowed_hosts: Collection[str]) -> bytes:
    """Return what a URL holds, at most MAX_BYTES, within SECONDS.

    Raises: RequestError: the URL is refused (400, 403), too large (413), or does not answer with a
        photo in time (424).
    """
    host, target = check_url(url, allowed_hosts)
    outcome: list[bytes | RequestError] = []
    fetch = _Fetch(host, target)

    def run() -> None:
        try:
            outcome.append(fetch.run())
        except RequestError as error:
            outcome.append(error)
        # A server of somebody else's may break any rule of TLS and HTTP.
        except Exception:
            outcome.append(RequestError(424, "The URL's host does not answer as it should."))

    # In a thread of its own: name resolution has no time limit, and a server may drip bytes.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if not outcome:
        fetch.abort()
        raise RequestError(424, f"The URL did not answer within {SECONDS:g} seconds.")
    if isinstance(outcome[0], RequestError):
        raise outcome[0]
    return outcome[0]


def check_url(url: str, allowed_hosts: Collection[str]) -> tuple[str, str]:
    """Return host and request target (path and query) of a URL that may be fetched.

    Raises: RequestError: it may not, or is none.
    """
    if not allowed_hosts:
        raise RequestError(403, "This endpoint fetches no URLs.")
    if len(url) > MAX_URL or not _URL_CHARACTERS.fullmatch(url):
        raise RequestError(400, "The URL is too long, or holds characters that no URL has.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise RequestError(400, "The URL cannot be read.") from error
    if parts.scheme != "https":
        raise RequestError(400, "The URL has to begin with https://.")
    # The whole of it, not the hostname that urlsplit takes out: no user, nothing else to hide in.
    host = parts.netloc.lower().removesuffix(f":{HTTPS}")
    if "@" in parts.netloc or port not in (None, HTTPS) or host not in allowed_hosts:
        raise RequestError(403, "The URL's host is not among those that this endpoint fetches.")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, target


def public_address(host: str) -> str:
    """Resolve a name once, and return an address of it.

    Raises: RequestError: it does not resolve, or any of its addresses is not public.
    """
    try:
        found = socket.getaddrinfo(host, HTTPS, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RequestError(424, "The URL's host does not resolve.") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise RequestError(403, "The URL's host is not on the public internet.")
    return addresses[0]


def is_public(address: str) -> bool:
    """Return whether an address is one of the public internet's, and leads nowhere else.

    Python's own is_global differs between versions, and lets multicast and mapped addresses pass.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a zone (fe80::1%eth0) is none of the public internet's either
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        is_unicast = parsed.scope_id is None and parsed in _PUBLIC_IPV6
        return is_unicast and not any(parsed in net for net in _SPECIAL_IPV6)
    is_unicast = parsed.is_global and not parsed.is_multicast and not parsed.is_reserved
    return is_unicast and not any(parsed in net for net in _SPECIAL_IPV4)


_Socket = TypeVar("_Socket", bound=socket.socket)


class _Fetch:
    """One fetch, which another thread may abort."""

    def __init__(self, host: str, target: str) -> None:
        self.host = host
        self.target = target
        self.connection: socket.socket | None = None
        self.is_aborted = False

    def run(self) -> bytes:
        address = public_address(self.host)
        plain = self._current(socket.create_connection((address, HTTPS), timeout=SECONDS))
        with plain:
            context = ssl.create_default_context()
            # The handshake by hand: until then nobody else has a hold of the encrypted socket.
            encrypted = context.wrap_socket(
                plain, server_hostname=self.host, do_handshake_on_connect=False
            )
            with self._current(encrypted):
                encrypted.do_handshake()
                # http.client asks for a connection; this one is made already, to the address
                # that was checked.
                client = http.client.HTTPSConnection(self.host)
                client.sock = encrypted
                client.request("GET", self.target, headers={"Accept": "image/jpeg, image/png"})
                return _read(client.getresponse())

    def _current(self, connection: _Socket) -> _Socket:
        """Return a connection that abort() can close, or close it now if it is too late."""
        self.connection = connection
        if self.is_aborted:
            connection.close()
        return connection

    def abort(self) -> None:
        """Close the connection under whatever waits for it."""
        self.is_aborted = True
        with contextlib.suppress(OSError):
            if self.connection:
                self.connection.shutdown(socket.SHUT_RDWR)


def _read(response: http.client.HTTPResponse) -> bytes:
    if response.status != http.client.OK:  # a redirect too: it would lead to an unchecked host
        raise RequestError(424, "The URL's host did not answer with a photo.")
    content = response.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise RequestError(413, f"The URL holds more than {MAX_BYTES // 1_000_000} MB.")
    return content
