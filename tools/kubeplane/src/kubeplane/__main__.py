# SPDX-License-Identifier: Apache-2.0
"""`python -m kubeplane`: run the control plane until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from kubeplane.access.authentication import User, read_token_file
from kubeplane.plane import ControlPlane


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m kubeplane", description="A Kubernetes API in one process.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--data", type=Path, help="SQLite file that keeps the objects; without it they are in memory")
    parser.add_argument("--kubeconfig-out", type=Path, help="write a kubeconfig to this file")
    parser.add_argument("--token-auth-file", type=Path, help="CSV of token,user,uid,groups; else all are let in")
    parser.add_argument(
        "--authorization-mode",
        choices=("AlwaysAllow", "RBAC"),
        default="AlwaysAllow",
        help="whether the stored roles and bindings are enforced (default AlwaysAllow)",
    )
    parser.add_argument(
        "--audit-log-path", type=Path, help="file that records accepted and refused writes, as JSON lines"
    )
    parser.add_argument("--cert-dir", type=Path, help="serve TLS with the certificate of this folder (made if missing)")
    parser.add_argument("--crds", type=Path, help="folder of CustomResourceDefinitions to begin with")
    parser.add_argument("--bookmark-seconds", type=float, default=60.0, help="time between bookmarks (default 60)")
    parser.add_argument(
        "--history", type=int, default=100_000, help="changes that watches can resume from (default %(default)s)"
    )
    return parser.parse_args()


def kubeconfig(url: str, tokens: Mapping[str, User], cert_dir: Path | None) -> str:
    """Return a kubeconfig, in JSON, which is YAML; its user has the first token."""
    user = {"token": next(iter(tokens))} if tokens else {}
    cluster = {"server": url} | ({"certificate-authority": str(cert_dir / "apiserver.crt")} if cert_dir else {})
    context = {"cluster": "kubeplane", "user": "admin", "namespace": "default"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubeplane", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "kubeplane", "context": context}],
        "current-context": "kubeplane",
    }
    return json.dumps(config, indent=2) + "\n"


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


async def _run(options: argparse.Namespace) -> None:
    tokens = read_token_file(options.token_auth_file) if options.token_auth_file else {}
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    plane = ControlPlane(
        port=options.port,
        data=options.data,
        tokens=tokens,
        crds=options.crds,
        bookmark_s=options.bookmark_seconds,
        history=options.history,
        cert_dir=options.cert_dir,
        audit_log=options.audit_log_path,
        rbac=options.authorization_mode == "RBAC",
    )
    async with plane:
        if options.kubeconfig_out:
            _write_private(options.kubeconfig_out, kubeconfig(plane.url, tokens, options.cert_dir))
        print(f"ready {plane.url} kubeconfig {options.kubeconfig_out or '-'}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(_run(_options()))
