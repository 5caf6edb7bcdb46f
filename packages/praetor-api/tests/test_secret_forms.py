# SPDX-License-Identifier: Apache-2.0
"""A search for a secret that finds nothing must not be blind."""

from __future__ import annotations

import base64
import hashlib

import pytest

from praetor_api.values import SECRET, Source, content_digest
from secret_forms import forms, shown_in

VALUE = b"hunter2-5up3rs3cr3t"
DOCUMENT = b'{"PASSWORD":"%b"}' % VALUE
OF_FILE = b"\0".join((b"content", b"lab", b"secret/login key password", VALUE))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"password=" + VALUE, id="plain"),
        pytest.param(base64.b64encode(VALUE), id="base64"),
        pytest.param(base64.b64encode(b"a" + VALUE + b"b"), id="base64-of-more"),
        pytest.param(base64.b64encode(b"ab" + VALUE + b"b"), id="base64-of-even-more"),
        pytest.param(VALUE.hex().upper().encode(), id="hex"),
        pytest.param(hashlib.sha256(VALUE).hexdigest()[:32].encode(), id="a-cut-digest"),
        pytest.param(hashlib.md5(VALUE, usedforsecurity=False).hexdigest().encode(), id="md5"),
        pytest.param(base64.b64encode(hashlib.sha1(VALUE, usedforsecurity=False).digest()), id="digest-in-base64"),
        pytest.param(hashlib.sha256(DOCUMENT).hexdigest().encode(), id="digest-of-a-document"),
        pytest.param(
            content_digest(b"", "lab", Source(SECRET, "login", "password"), VALUE).encode(), id="digest-without-a-key"
        ),
    ],
)
def test_a_search_finds_a_value_in_each_form(text: bytes) -> None:
    looked_for = forms(VALUE, DOCUMENT, OF_FILE)
    assert shown_in(b"<" + text + b">", looked_for)
    assert shown_in(f"<{text.decode()}>", looked_for)


def test_a_digest_with_a_key_is_none_of_them() -> None:
    text = content_digest(b"a key", "lab", Source(SECRET, "login", "password"), VALUE)
    assert not shown_in(text, forms(VALUE, DOCUMENT, OF_FILE))
