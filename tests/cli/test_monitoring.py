"""Those who watch a run get its metrics and its pings, and never fail it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coalesce.storage.memory import MemoryBucket
from support import lakes
from support.invoke import Sight, invoke

RUN = ["run", "-b", "b", "-p", "data", "--min-age", "0"]


class _Noting(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.server.called.append(self.path)  # type: ignore[attr-defined]
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@contextmanager
def pinged(status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server that notes the paths it is asked for, and answers with this status."""
    handler = type("Handler", (_Noting,), {"status": status})
    server = HTTPServer(("127.0.0.1", 0), handler)
    server.called = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/ping/secret", server.called  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


Lake = Callable[[], MemoryBucket]
Command = Callable[..., Sight]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Runs a command over a bucket, in a folder of its own."""

    def command(*words: str, fill: Lake = lakes.lake) -> Sight:
        return invoke([*RUN, *words], {"b": fill()}, folder=tmp_path_factory.mktemp("work"))

    return command


def test_a_good_run_calls_the_url_when_it_begins_and_when_it_ends(run: Command) -> None:
    with pinged() as (url, called):
        assert run("--ping-url", url).code == 0
    assert called == ["/ping/secret/start", "/ping/secret"]


def test_a_run_that_fails_calls_the_url_with_its_exit_code(run: Command) -> None:
    with pinged() as (url, called):
        assert run("--ping-url", url, fill=lakes.spoilt).code == 4
    assert called == ["/ping/secret/start", "/ping/secret/4"]


def test_a_url_that_answers_with_an_error_fails_no_run_and_is_not_logged(run: Command) -> None:
    with pinged(500) as (url, called):
        sight = run("--ping-url", url)
    assert (sight.code, len(called)) == (0, 2)
    assert "cannot call --ping-url at 127.0.0.1" in sight.stderr
    assert "secret" not in sight.stderr


def test_a_url_that_answers_what_is_no_http_fails_no_run(run: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        sight = run("--ping-url", f"http://127.0.0.1:{server.getsockname()[1]}/secret")
        thread.join()
    assert (sight.code, len(sight.outputs)) == (0, len(run().outputs))
    assert "cannot call --ping-url at 127.0.0.1: BadStatusLine" in sight.stderr


def test_a_url_that_cannot_be_called_fails_no_run_and_is_not_logged(run: Command) -> None:
    sight = run("--ping-url", "http://127.0.0.1:1/my secret")
    assert sight.code == 0
    assert "cannot call --ping-url at 127.0.0.1: InvalidURL" in sight.stderr
    assert "secret" not in sight.stderr


def test_the_query_of_a_url_stays_behind_what_is_called(run: Command) -> None:
    with pinged() as (url, called):
        run("--ping-url", f"{url}?create=1", fill=lakes.spoilt)
    assert called == ["/ping/secret/start?create=1", "/ping/secret/4?create=1"]


def test_a_plan_calls_nobody(run: Command, tmp_path: Path) -> None:
    with pinged() as (url, called):
        sight = run("--dry-run", "--ping-url", url, "--metrics-file", str(tmp_path / "m.prom"))
        assert sight.code == 0
    assert called == []
    assert not list(tmp_path.iterdir())


def metrics(path: Path) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def test_a_metrics_file_is_whole_and_remembers_the_last_good_run(
    run: Command, tmp_path: Path
) -> None:
    path = tmp_path / "m.prom"
    assert run("--metrics-file", str(path)).code == 0
    good = metrics(path)
    assert good["coalesce_exit_code"] == 0
    assert good["coalesce_sources_joined"] > 0
    assert run("--metrics-file", str(path), fill=lakes.spoilt).code == 4
    bad = metrics(path)
    assert bad["coalesce_exit_code"] == 4
    name = "coalesce_last_success_timestamp_seconds"
    assert bad[name] == good[name]
    assert [file.name for file in tmp_path.iterdir()] == ["m.prom"]


def test_shards_write_files_of_their_own(run: Command, tmp_path: Path) -> None:
    run("--metrics-file", str(tmp_path / "m-{shard}.prom"), "--shard", "1/2")
    assert [file.name for file in tmp_path.iterdir()] == ["m-1-of-2.prom"]


def test_metrics_that_cannot_be_written_are_told_before_the_run(
    run: Command, tmp_path: Path
) -> None:
    sight = run("--metrics-file", str(tmp_path / "none" / "m.prom"))
    assert sight.code == 10
    assert "no folder" in sight.stderr
    assert not sight.outputs


def test_a_line_for_cloudwatch_follows_the_summary(run: Command) -> None:
    sight = run("--emf")
    line = json.loads(sight.stdout.splitlines()[-1])
    assert line["Location"] == "s3://b/data/"
    assert line["GoodRuns"] == 1
    assert line["SourcesJoined"] + line["SourcesLeft"] == line["SourcesSeen"]
    assert line["SourcesJoined"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics-file", "s3://b/m.prom"], "--metrics-file"),
        (["--ping-url", "ftp://host/x"], "--ping-url"),
    ],
)
def test_what_cannot_work_is_refused(run: Command, words: list[str], said: str) -> None:
    sight = run(*words)
    assert sight.code == 2
    assert said in sight.stderr
