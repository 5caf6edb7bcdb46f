# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from praetor_api.tokens import TokenKind, TokenVerifier, device_token

OLD, NEW = b"old secret", b"new secret"
VERIFIERS = {
    "shared": TokenVerifier(shared=(b"s3cret",)),
    "hmac": TokenVerifier(secrets=(NEW, OLD)),
    "both": TokenVerifier(shared=(b"s3cret",), secrets=(NEW, OLD)),
}


def test_the_token_is_the_hex_hmac_of_the_devices_name() -> None:
    """Checked against `printf leaf-1 | openssl dgst -sha256 -hmac secret`."""
    assert device_token(b"secret", "leaf-1") == "97c0818ebb52eabb3ee689b3a49974eb2758394618073d8c04a219368934950e"


def test_the_token_of_a_later_epoch_is_the_hex_hmac_of_name_and_epoch() -> None:
    """Checked against `printf leaf-1/3 | openssl dgst -sha256 -hmac secret`."""
    assert device_token(b"secret", "leaf-1", 3) == "5bfbd4be528b18b67e1033b9164b4ddb7f10aec9b32073c2d49125ac6372510b"
    assert device_token(b"secret", "leaf-1", 0) == device_token(b"secret", "leaf-1")


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
def test_every_active_secret_is_good_so_that_secrets_can_be_rotated(secret: bytes) -> None:
    assert VERIFIERS["hmac"].verify("leaf-1", device_token(secret, "leaf-1")) is TokenKind.HMAC


def test_the_shared_token_is_good_for_every_device() -> None:
    assert VERIFIERS["both"].verify("leaf-1", "s3cret") is TokenKind.SHARED


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("s3cre", id="cut"),
        pytest.param("S3CRET", id="case"),
        pytest.param("old secret", id="the-secret-itself"),
        pytest.param(device_token(NEW, "leaf-2"), id="other-device"),
        pytest.param(device_token(b"retired", "leaf-1"), id="retired-secret"),
        pytest.param("\udcff", id="not-utf8"),
        pytest.param("ü" * 64, id="not-ascii"),
    ],
)
def test_a_wrong_token_is_rejected(name: str, token: str) -> None:
    assert VERIFIERS[name].verify("leaf-1", token) is None


@given(st.text(), st.sampled_from(sorted(VERIFIERS)))
def test_any_other_text_is_rejected(token: str, name: str) -> None:
    assert VERIFIERS[name].verify("leaf-1", token) is None or token == "s3cret"


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("epoch", [0, 1, 2, 11])
@pytest.mark.parametrize("of", [0, 1, 2, 11])
def test_a_token_is_good_in_its_own_epoch_only(name: str, of: int, epoch: int) -> None:
    for secret in (NEW, OLD):
        kind = VERIFIERS[name].verify("leaf-1", device_token(secret, "leaf-1", of), epoch)
        assert kind is (TokenKind.HMAC if of == epoch and name != "shared" else None)


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_shared_token_is_rejected_for_a_device_whose_tokens_were_revoked(name: str, epoch: int) -> None:
    good = epoch == 0 and name != "hmac"
    assert VERIFIERS[name].verify("leaf-1", "s3cret", epoch) is (TokenKind.SHARED if good else None)


@pytest.mark.parametrize("epoch", [1, 2])
@given(st.text(), st.sampled_from(sorted(VERIFIERS)))
@example("", "both")
@example("leaf-1/1", "both")
@example(device_token(NEW, "leaf-2", 1), "both")
@example(device_token(b"retired", "leaf-1", 1), "both")
def test_any_other_text_is_rejected_in_every_epoch(epoch: int, token: str, name: str) -> None:
    assert VERIFIERS[name].verify("leaf-1", token, epoch) is None


def test_a_verifier_that_would_accept_every_client_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="nothing could be verified"):
        TokenVerifier()
    with pytest.raises(ValueError, match="would admit every client"):
        TokenVerifier(shared=(b"",))
    with pytest.raises(ValueError, match="would admit every client"):
        TokenVerifier(secrets=(b"x", b""))
    with pytest.raises(ValueError, match="empty"):
        device_token(b"", "leaf-1")
    with pytest.raises(ValueError, match="negative"):
        device_token(b"x", "leaf-1", -1)
