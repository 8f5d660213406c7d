"""Every option that says how the store is reached, of every command, said in every way: what it
does to the requests that arrive.

Several are said at once; each shows in a place of its own.
"""

import asyncio
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from typer.testing import CliRunner

from coalesce.cli.app import COMMANDS, app
from coalesce.cli.options import STORE
from support.invoke import Wording, wordings
from support.recorder import Recorder, recording
from support.scripted import Request
from support.tls import certified

COMMANDS_WITH_A_STORE = [
    name
    for name, command in COMMANDS.items()
    if {option.name for option in STORE.options} <= {option.name for option in command.options}
    and name != "config show"  # which asks nobody
]
WORDS = {
    **{
        name: ["-b", "lake", "-p", "p"]
        for name in ("run", "plan", "recover", "status", "undo", "verify")
    },
    "history": ["s3://lake/p/t_0_0_1.jsonl.gz"],
    "extract": ["s3://lake/p/t_0_0-0.jsonl.gz"],
    "report": ["s3://lake/reports/"],
    "layout guess": ["-b", "lake", "-p", "p"],
    "probe": ["-b", "lake"],
    "generate": ["-b", "lake", "--objects", "1"],
}


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


@pytest.fixture(scope="module")
def secure_recorder(authority: trustme.CA) -> Iterator[Recorder]:
    with recording(certified(authority, "localhost", "lake.s3.example", "s3.example")) as recorder:
        yield recorder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorder: Recorder) -> None:
    """Every name is this machine, LocalStack is the recorder, and nobody waits for a retry."""
    resolve, sleep = socket.getaddrinfo, asyncio.sleep

    def local(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        here = recorder.port if host in ("localstack", b"localstack") else port
        return resolve("127.0.0.1", here, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    monkeypatch.setattr(asyncio, "sleep", lambda _, *result: sleep(0, *result))
    (tmp_path / "aws").write_text(
        "[profile night]\naws_access_key_id = NIGHT\naws_secret_access_key = x\n"
    )
    for name, value in {
        "AWS_ACCESS_KEY_ID": "DAY",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "aws"),
        "AWS_ENDPOINT_URL": f"http://localhost:{recorder.port}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def requests_of(recorder: Recorder, command: str, saids: Sequence[Wording]) -> list[Request]:
    """The requests of a command, with its options said like this."""
    recorder.requests.clear()
    Path("coalesce.toml").write_text("\n".join(line for said in saids for line in said.lines))
    variables = {name: text for said in saids for name, text in said.variables.items()}
    words = [word for said in saids for word in said.arguments]
    done = CliRunner().invoke(app, [*command.split(), *WORDS[command], *words], env=variables)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return list(recorder.requests)


def ways(command: str, options: dict[str, object]) -> Iterator[list[Wording]]:
    """All options in the first of their ways, then in the second, and so on."""
    said = [list(wordings(command, name, value)) for name, value in options.items()]
    for n in range(max(map(len, said))):
        yield [each[min(n, len(each) - 1)] for each in said]


def key_of(request: Request) -> str:
    return request.headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]


@pytest.mark.parametrize("command", COMMANDS_WITH_A_STORE)
def test_without_options_the_surroundings_say_how_the_store_is_reached(
    command: str, recorder: Recorder
) -> None:
    sent = requests_of(recorder, command, [])
    assert sent
    for request in sent:
        assert request.headers["host"] == f"localhost:{recorder.port}"
        assert request.path.startswith("/lake")
        assert key_of(request) == "DAY"
        assert "/us-west-1/s3/" in request.headers["authorization"]
        assert "x-amz-expected-bucket-owner" not in request.headers
        assert "x-amz-request-payer" not in request.headers


@pytest.mark.parametrize("command", COMMANDS_WITH_A_STORE)
def test_every_request_is_as_the_options_say(
    command: str, secure_recorder: Recorder, authority: trustme.CA, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    options: dict[str, object] = {
        "endpoint_url": f"https://s3.example:{secure_recorder.port}",
        "region": "eu-north-1",
        "profile": "night",
        "ca_bundle": str(bundle),
        "expected_bucket_owner": "123456789012",
        "request_payer": True,
        "addressing": "virtual",
    }
    for saids in ways(command, options):
        sent = requests_of(secure_recorder, command, saids)
        assert sent
        for request in sent:
            assert request.headers["host"] == f"lake.s3.example:{secure_recorder.port}"
            assert key_of(request) == "NIGHT"
            assert "/eu-north-1/s3/" in request.headers["authorization"]
            assert request.headers["x-amz-expected-bucket-owner"] == "123456789012"
            assert request.headers["x-amz-request-payer"] == "requester"


@pytest.mark.parametrize("command", COMMANDS_WITH_A_STORE)
def test_a_stranger_is_talked_to_and_nothing_signed_only_if_that_is_said(
    command: str, secure_recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{secure_recorder.port}")
    assert requests_of(secure_recorder, command, []) == [], "its certificate is not trusted"
    for saids in ways(command, {"no_verify_ssl": True, "no_sign_request": True}):
        sent = requests_of(secure_recorder, command, saids)
        assert sent
        assert {request.headers.get("authorization") for request in sent} == {None}


@pytest.mark.parametrize("command", COMMANDS_WITH_A_STORE)
def test_localstack_is_found_by_its_name_with_any_key(command: str, recorder: Recorder) -> None:
    for saids in ways(command, {"localstack": True}):
        sent = requests_of(recorder, command, saids)
        assert sent
        for request in sent:
            assert request.headers["host"] == "localstack:4566"
            assert key_of(request) == "test"
            assert "/eu-west-2/s3/" in request.headers["authorization"]


def test_no_option_is_forgotten() -> None:
    tried = {
        "endpoint_url",
        "region",
        "profile",
        "no_sign_request",
        "ca_bundle",
        "no_verify_ssl",
        "expected_bucket_owner",
        "request_payer",
        "addressing",
        "localstack",
    }
    assert tried == {option.name for option in STORE.options}
    assert list(WORDS) == COMMANDS_WITH_A_STORE
