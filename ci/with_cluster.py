"""Runs a command against a Kubernetes API server: `python ci/with_cluster.py COMMAND...`.

The server, its etcd and the controller manager are built once, at the versions of
`ci/cluster/go.mod`, beside the S3 servers of the tests: up to half an hour on 2 cores. They run on
free loopback ports with their data in a temporary folder. No node belongs to them, so no container
ever runs. kubectl finds the server by KUBECONFIG; the command sees COALESCE_TEST_CLUSTER set too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from with_server import CACHE, wait_for

MODULE = Path(__file__).parent / "cluster"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
}
TOKEN = "loopback-only"
SECONDS_TO_START = 120


def version() -> str:
    """That of Kubernetes, with its v."""
    found = re.search(r"k8s\.io/kubernetes (v[\d.]+)$", (MODULE / "go.mod").read_text(), re.M)
    assert found is not None
    return found[1]


def installed() -> Path:
    """The folder of the programs, each built if it is not there yet."""
    home = CACHE / f"kubernetes-{version()}"
    missing = {name: package for name, package in PACKAGES.items() if not (home / name).exists()}
    if missing and shutil.which("go") is None:
        sys.exit("Kubernetes cannot be built without go")
    major, minor, _ = version().removeprefix("v").split(".")
    stamp = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    flags = " ".join(
        f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items()
    )
    for name, package in missing.items():
        build = ["go", "build", "-C", str(MODULE), "-ldflags", f"-s -w {flags}"]
        subprocess.run([*build, "-o", str(home / name), package], check=True)
    return home


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


def write_credentials(folder: Path, port: int) -> None:
    """The server's certificate, the key of service accounts, an administrator's kubeconfig."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "server.crt"))
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,1,system:masters\n")
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(folder / "ca.crt"),
    }
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }
    (folder / "kubeconfig").write_text(json.dumps(config))


def etcd(home: Path, folder: Path, clients: int, peers: int) -> list[str]:
    """The command that keeps what the server knows."""
    own, others = f"http://127.0.0.1:{clients}", f"http://127.0.0.1:{peers}"
    return [
        f"{home}/etcd",
        f"--data-dir={folder}/etcd",
        f"--listen-client-urls={own}",
        f"--advertise-client-urls={own}",
        f"--listen-peer-urls={others}",
        f"--initial-advertise-peer-urls={others}",
        f"--initial-cluster=default={others}",
        "--unsafe-no-fsync",
    ]


def api_server(home: Path, folder: Path, port: int, clients: int) -> list[str]:
    """The command that answers kubectl, with the admission that a cluster has by default."""
    return [
        f"{home}/kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{clients}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",  # which takes no loopback address
        f"--secure-port={port}",
        f"--cert-dir={folder}",
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder}/accounts.key",
        f"--service-account-signing-key-file={folder}/accounts.key",
        "--service-cluster-ip-range=10.0.0.0/24",
    ]


def controllers(home: Path, folder: Path, port: int) -> list[str]:
    """The command that makes jobs of cron jobs and pods of jobs, and judges how pods ended."""
    return [
        f"{home}/kube-controller-manager",
        f"--kubeconfig={folder}/kubeconfig",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={folder}/controllers",
        "--leader-elect=false",
        "--controllers=cronjob-controller,job-controller,serviceaccount-controller,"
        "garbage-collector-controller,ttl-after-finished-controller",
    ]


def wait_until_ready(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the server says that it is ready; ends the program with its log if it never does."""
    deadline = time.monotonic() + SECONDS_TO_START
    command = ["kubectl", f"--kubeconfig={folder}/kubeconfig", "get", "--raw", "/readyz"]
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    sys.exit(f"the API server did not get ready:\n{(folder / 'log').read_text()[-4000:]}")


@contextlib.contextmanager
def running() -> Iterator[dict[str, str]]:
    """The variables by which a command finds the cluster."""
    home = installed()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        api, clients, peers, watched = free_ports(4)
        write_credentials(folder, api)
        log = stack.enter_context((folder / "log").open("wb"))

        def start(command: list[str]) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            return process

        wait_for(clients, start(etcd(home, folder, clients, peers)))
        wait_until_ready(folder, start(api_server(home, folder, api, clients)))
        start(controllers(home, folder, watched))
        yield {"KUBECONFIG": str(folder / "kubeconfig"), "COALESCE_TEST_CLUSTER": version()}


def main() -> int:
    """Runs the command; its exit code."""
    if len(sys.argv) < 2:
        sys.exit("usage: with_cluster.py COMMAND...")
    if shutil.which("kubectl") is None:
        sys.exit("with_cluster.py needs kubectl on the PATH")
    with running() as variables:
        return subprocess.run(sys.argv[1:], env=os.environ | variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
