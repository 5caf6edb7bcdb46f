"""Client certificates for users of a cluster, signed by the cluster itself."""

from __future__ import annotations

import base64
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml
from contract.rawapi import RawApi
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from e2e.clusters.api.credentials import write_secret
from e2e.clusters.errors import ClusterError

REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SIGNER = "kubernetes.io/kube-apiserver-client"
SIGN_S = 30


def kubeconfig_with_certificate(admin: Path, user: str, path: Path) -> Path:
    """Write a copy of *admin* to *path* in which the user is *user*, known by a certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, user)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    with RawApi.from_kubeconfig(admin) as api:
        certificate = _signed(api, user, request.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    config = yaml.safe_load(admin.read_text())
    current = next(context for context in config["contexts"] if context["name"] == config["current-context"])
    current["context"]["user"] = user
    data = {"client-certificate-data": certificate, "client-key-data": base64.b64encode(private).decode()}
    config["users"] = [{"name": user, "user": data}]
    return write_secret(path, yaml.safe_dump(config, sort_keys=False).encode())


def _signed(api: RawApi, user: str, request: bytes) -> str:
    """Have *request* approved and signed; return the certificate in base64."""
    made = _expect(api.post(REQUESTS, _signing_request(user, request)))
    one = f"{REQUESTS}/{made['metadata']['name']}"
    condition = {"type": "Approved", "status": "True", "reason": "PraetorE2E", "message": "a user of the suite"}
    made["status"] = {"conditions": [condition]}
    _expect(api.put(f"{one}/approval", made))
    deadline = time.monotonic() + SIGN_S
    while time.monotonic() < deadline:
        status = _expect(api.get(one)).get("status", {})
        if "certificate" in status:
            _expect(api.delete(one))
            return str(status["certificate"])
        time.sleep(0.2)
    raise ClusterError(f"{api.url} did not sign a certificate for {user} in {SIGN_S} s")


def _signing_request(user: str, request: bytes) -> dict[str, Any]:
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"generateName": f"{user}-"},
        "spec": {
            "request": base64.b64encode(request).decode(),
            "signerName": SIGNER,
            "usages": ["digital signature", "key encipherment", "client auth"],
        },
    }


def _expect(answer: Any) -> dict[str, Any]:
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise ClusterError(f"cannot get a client certificate: {answer.status} {answer.message}")
    body: dict[str, Any] = answer.body
    return body
