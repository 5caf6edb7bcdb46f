# SPDX-License-Identifier: Apache-2.0
"""Tokens, keys and kubeconfig files of a cluster that we start ourselves; all of them live in its work directory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from e2e.clusters.cluster import COMPONENTS, account

ADMIN = "admin"
MASTERS = "system:masters"
ACCOUNTS = "system:serviceaccounts"


def write_secret(path: Path, content: bytes) -> Path:
    """Write a file that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return path


def new_tokens(users: Iterable[str]) -> dict[str, str]:
    """Return a fresh bearer token for the administrator and each of *users*."""
    return {user: secrets.token_urlsafe(24) for user in (ADMIN, *users)}


def token_file(tokens: Mapping[str, str]) -> str:
    """Return *tokens* (user → token) in the format of `--token-auth-file`.

    The administrator is a master, and a program is its service account, as in a cluster that runs it in a Pod.
    """
    return "".join(",".join((token, *_identity(user))) + "\n" for user, token in tokens.items())


def _identity(user: str) -> tuple[str, ...]:
    if user == ADMIN:
        return user, user, f'"{MASTERS}"'
    if user in COMPONENTS:
        return account(user), user, f'"{ACCOUNTS}"'
    return user, user


def service_account_keys(workdir: Path) -> tuple[Path, Path]:
    """Write a key pair for service account tokens; return the private and the public file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return write_secret(workdir / "sa.key", private), write_secret(workdir / "sa.pub", public)


def write_kubeconfig(
    path: Path,
    *,
    url: str,
    user: str,
    credentials: Mapping[str, str],
    ca: Path | None = None,
    namespace: str = "default",
) -> Path:
    """Write a kubeconfig of one cluster and one user; *credentials* is the kubeconfig's user entry."""
    cluster: dict[str, Any] = {"server": url}
    if ca is not None:
        cluster["certificate-authority"] = str(ca)
    context = {"cluster": "praetor", "user": user, "namespace": namespace}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "praetor", "cluster": cluster}],
        "users": [{"name": user, "user": dict(credentials)}],
        "contexts": [{"name": "praetor", "context": context}],
        "current-context": "praetor",
    }
    return write_secret(path, yaml.safe_dump(config, sort_keys=False).encode())
