"""What a request may make the endpoint connect to: nothing but what the deployer allowed."""

import datetime
import http.server
import json
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serving import url_fetch
from serving.bin_requests import PhotoSources, photo_bytes, read_request
from serving.request_errors import RequestError
from serving.url_fetch import check_hosts, fetch_photo, is_public

HOST = "photos.example.com"
ALLOWED = check_hosts([HOST])
PUBLIC = "93.184.215.14"
PHOTO = b"\xff\xd8\xff the bytes of a photo"

# What an attacker writes in the URL itself. None of these may lead to a connection, or a lookup.
REFUSED_URLS = [
    # another scheme
    f"http://{HOST}/a.jpg",
    f"ftp://{HOST}/a.jpg",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "data:image/jpeg;base64,AAAA",
    f"//{HOST}/a.jpg",
    f"https:{HOST}/a.jpg",
    f"https:///{HOST}/a.jpg",
    "jar:https://photos.example.com!/a.jpg",
    # addresses in every notation
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://0/",
    "https://0.0.0.0/",
    "https://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "https://2852039166/latest/meta-data/",
    "https://0xa9fea9fe/",
    "https://169.254.170.2/v2/credentials/",
    "https://10.0.0.1/",
    "https://192.168.0.1/",
    "https://172.16.0.1/",
    "https://100.64.0.1/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[0:0:0:0:0:ffff:169.254.169.254]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1%25eth0]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://①②⑦.⓪.⓪.①/",
    # other names
    "https://localhost/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://evil.example/",
    f"https://{HOST}.evil.example/",
    f"https://evil-{HOST}/",
    f"https://sub.{HOST}/",
    "https://127.0.0.1.nip.io/",
    "https://photos.example.com。/",
    f"https://{HOST}./a.jpg",
    f"https://{HOST}../a.jpg",
    "https://photos%2eexample.com/a.jpg",
    "https:// photos.example.com/a.jpg",
    "https://photos.example.com\u200b/a.jpg",
    # users, ports, and what hides a host
    f"https://{HOST}@127.0.0.1/",
    f"https://127.0.0.1@{HOST}/",
    f"https://user:secret@{HOST}/",
    f"https://@{HOST}/",
    f"https://{HOST}:80/",
    f"https://{HOST}:22/",
    f"https://{HOST}:0/",
    f"https://{HOST}:65536/",
    f"https://{HOST}:-1/",
    f"https://{HOST}:443:22/",
    f"https://evil.example#@{HOST}/",
    f"https://evil.example?@{HOST}/",
    f"https://evil.example\\@{HOST}/",
    f"https:\\\\{HOST}\\a.jpg",
    "https://[",
    "https://",
    "",
    # another request in the line
    f"https://{HOST}/a.jpg\r\nHost: evil.example",
    f"https://{HOST}/a.jpg HTTP/1.1",
    f"https://{HOST}\t/a.jpg",
    f"https://{HOST}/{'a' * 5000}",
]

NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.31.255.255", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:93.184.215.14", "::7f00:1"),
    *("64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1"),
    *("ff02::1", "", "localhost", "127.1"),
]


class Network:
    """The only things that a fetch may reach: a resolver of our own, and one test server."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []  # the resolver's, one a lookup
        self.lookups: list[str] = []
        self.connections: list[Any] = []  # tried, at the level of the operating system
        self.asked_for: list[str] = []  # addresses that the code asked to connect to
        self.port = 0
        self.is_watching = False

    def getaddrinfo(self, host: str, port: int, **options: Any) -> list[Any]:
        self.lookups.append(host)
        answer = self.answers[min(len(self.lookups), len(self.answers)) - 1]
        if not answer:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in answer]

    def create_connection(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """Stand for the internet: the public address is the test's server."""
        self.asked_for.append(address[0])
        assert address == (PUBLIC, 443)
        made = socket.socket()
        made.settimeout(timeout)
        made.connect(("127.0.0.1", self.port))
        return made


NETWORK = Network()
# Python's audit events of connections, datagrams and lookups.
LEAVES_THE_PROCESS = {
    *("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"),
    *("socket.gethostbyname", "socket.getnameinfo"),
}


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Fail on every connection of this process but that to the test's server."""
    if NETWORK.is_watching and event in LEAVES_THE_PROCESS:
        NETWORK.connections.append((event, arguments[1:]))
        if event != "socket.connect" or arguments[1] != ("127.0.0.1", NETWORK.port):
            raise PermissionError(f"{event} {arguments[1:]} is not allowed")


# Python cannot remove it again: it does nothing while nobody watches.
sys.addaudithook(_watch)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    NETWORK.__init__()  # type: ignore[misc]
    NETWORK.answers = [[PUBLIC]]
    monkeypatch.setattr(url_fetch.socket, "getaddrinfo", NETWORK.getaddrinfo)
    monkeypatch.setattr(url_fetch.socket, "create_connection", NETWORK.create_connection)
    NETWORK.is_watching = True
    yield NETWORK
    NETWORK.is_watching = False


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the key and the certificate of photos.example.com, its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "photos.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def answer_with(
    network: Network, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Answer], list[str]]]:
    """Return a function that starts an HTTPS server for photos.example.com."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    servers = []

    def start(answer: Answer) -> list[str]:
        targets = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                targets.append(f"{self.headers['Host']}{self.path}")
                answer(self)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        network.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        servers.append(server)
        return targets

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def status_of(url: str) -> int:
    with pytest.raises(RequestError) as raised:
        fetch_photo(url, ALLOWED)
    return raised.value.status


def test_there_are_sixty_payloads() -> None:
    assert len(set(REFUSED_URLS)) >= 60


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_a_url_that_leads_elsewhere_is_refused_before_any_lookup(
    url: str, network: Network
) -> None:
    assert status_of(url) in (400, 403)
    assert not network.lookups
    assert not network.connections


def test_without_allowed_hosts_no_url_is_fetched(network: Network) -> None:
    with pytest.raises(RequestError) as raised:
        fetch_photo(f"https://{HOST}/a.jpg", [])
    assert raised.value.status == 403
    assert not network.lookups


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_allowed_name_that_resolves_inwards_is_refused(address: str, network: Network) -> None:
    assert not is_public(address)
    # Beside a public one, too: which of the two is taken is not the attacker's to choose.
    for answer in ([address], [PUBLIC, address], [address, PUBLIC]):
        network.lookups.clear()
        network.answers = [answer]
        assert status_of(f"https://{HOST}/a.jpg") == 403
    assert not network.connections


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:800::200e"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_a_photo_of_an_allowed_host_arrives(
    network: Network, answer_with: Callable[[Answer], list[str]]
) -> None:
    targets = answer_with(reply(200, PHOTO))
    for url in (f"https://{HOST}/a.jpg?size=1", f"HTTPS://{HOST.upper()}:443/a.jpg?size=1#part"):
        assert fetch_photo(url, ALLOWED) == PHOTO
    assert targets == [f"{HOST}/a.jpg?size=1"] * 2
    assert network.asked_for == [PUBLIC] * 2


def test_a_request_may_name_such_a_url(answer_with: Callable[[Answer], list[str]]) -> None:
    answer_with(reply(200, PHOTO))
    body = json.dumps({"instances": [{"url": f"https://{HOST}/{name}"} for name in "abc"]})
    questions, _ = read_request(body, "application/json")
    assert list(photo_bytes(questions, PhotoSources(url_hosts=ALLOWED))) == [PHOTO] * 3


def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(
    network: Network, answer_with: Callable[[Answer], list[str]]
) -> None:
    answer_with(reply(200, PHOTO))
    network.answers = [[PUBLIC], ["127.0.0.1"], ["169.254.169.254"]]
    assert fetch_photo(f"https://{HOST}/a.jpg", ALLOWED) == PHOTO
    assert network.lookups == [HOST]
    assert network.asked_for == [PUBLIC]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["https://169.254.169.254/", "http://localhost/", "/b.jpg"])
def test_no_redirect_is_followed(
    status: int, target: str, network: Network, answer_with: Callable[[Answer], list[str]]
) -> None:
    targets = answer_with(reply(status, Location=target))
    assert status_of(f"https://{HOST}/a.jpg") == 424
    assert targets == [f"{HOST}/a.jpg"]
    assert network.lookups == [HOST]
    assert len(network.connections) == 1


@pytest.mark.parametrize("status", [204, 206, 404, 500])
def test_what_is_not_found_is_no_photo(
    status: int, answer_with: Callable[[Answer], list[str]]
) -> None:
    answer_with(reply(status, b"internal secret"))
    with pytest.raises(RequestError, match="did not answer with a photo") as raised:
        fetch_photo(f"https://{HOST}/a.jpg", ALLOWED)
    assert "secret" not in str(raised.value)


def test_five_megabytes_are_the_most(answer_with: Callable[[Answer], list[str]]) -> None:
    answer_with(reply(200, b"x" * url_fetch.MAX_BYTES))
    assert len(fetch_photo(f"https://{HOST}/a.jpg", ALLOWED)) == url_fetch.MAX_BYTES
    answer_with(reply(200, b"x" * (url_fetch.MAX_BYTES + 1)))
    assert status_of(f"https://{HOST}/a.jpg") == 413


def test_a_server_that_drips_bytes_does_not_hold_the_request(
    answer_with: Callable[[Answer], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_fetch, "SECONDS", 1.0)
    is_gone = threading.Event()

    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        try:
            while not is_gone.wait(0.05):
                request.wfile.write(b"X-Header: a\r\n")
        except OSError:
            is_gone.set()

    answer_with(drip)
    assert status_of(f"https://{HOST}/a.jpg") == 424
    # The connection was closed, not left to the server.
    assert is_gone.wait(60)


def test_a_server_that_drips_its_handshake_does_not_hold_the_request(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(url_fetch, "SECONDS", 1.0)
    is_gone = threading.Event()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    network.port = listener.getsockname()[1]

    def drip() -> None:
        connection, _ = listener.accept()
        try:
            connection.sendall(b"\x16\x03\x03\x40\x00")  # a record of 16 kB, byte by byte
            while not is_gone.wait(0.05):
                connection.sendall(b"\x02")
        except OSError:
            is_gone.set()

    threading.Thread(target=drip, daemon=True).start()
    with listener:
        assert status_of(f"https://{HOST}/a.jpg") == 424
        assert is_gone.wait(60)


def test_a_certificate_of_another_authority_is_not_accepted(
    answer_with: Callable[[Answer], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = answer_with(reply(200, PHOTO))
    monkeypatch.delenv("SSL_CERT_FILE")
    assert status_of(f"https://{HOST}/a.jpg") == 424
    assert not targets


def test_a_certificate_of_another_name_is_not_accepted(
    answer_with: Callable[[Answer], list[str]],
) -> None:
    targets = answer_with(reply(200, PHOTO))
    with pytest.raises(RequestError) as raised:
        fetch_photo("https://other.example.com/a.jpg", check_hosts(["other.example.com"]))
    assert raised.value.status == 424
    assert not targets


def test_a_name_that_does_not_resolve_is_the_requests_fault(network: Network) -> None:
    network.answers = [[]]
    assert status_of(f"https://{HOST}/a.jpg") == 424


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0x7f.1", "localhost", "*.example.com", "Example.com", "example.com."]
    + ["example.com:443", "https://example.com", "", "[::1]", "a..b", "-a.example"],
)
def test_a_deployer_can_allow_plain_names_only(host: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        check_hosts([host])
