# SPDX-License-Identifier: Apache-2.0
"""The namespace that a kubeconfig selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from praetor_controller.ctl.cluster import context_namespace, default_namespace

LAB = {"current-context": "lab", "contexts": [{"name": "lab", "context": {"namespace": "fleet"}}, {"name": "bare"}]}
OTHER = {"current-context": "prod", "contexts": [{"name": "prod", "context": {"namespace": "live"}}]}


@pytest.mark.parametrize(
    ("documents", "context", "namespace"),
    [
        pytest.param([LAB], None, "fleet", id="current-context"),
        pytest.param([LAB, OTHER], None, "fleet", id="first-file-wins"),
        pytest.param([LAB, OTHER], "prod", "live", id="context-of-a-later-file"),
        pytest.param([LAB], "bare", "default", id="context-without-namespace"),
        pytest.param([LAB], "none", "default", id="no-such-context"),
        pytest.param([{}, OTHER], None, "live", id="empty-file"),
        pytest.param([], None, "default", id="nothing"),
    ],
)
def test_the_namespace_is_the_contexts(documents: list[dict[str, Any]], context: str | None, namespace: str) -> None:
    assert context_namespace(documents, context) == namespace


def test_files_are_found_as_kubectl_finds_them(tmp_path: Path) -> None:
    config = "current-context: x\ncontexts: [{name: x, context: {namespace: %s}}]\n"
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(config % "home")
    (tmp_path / "env").write_text(config % "environment")
    (tmp_path / "flag").write_text(config % "flag")
    (tmp_path / "broken").write_text("a: [")
    (tmp_path / "text").write_text("text")
    environ = {"KUBECONFIG": f"{tmp_path / 'none'}:{tmp_path / 'broken'}:{tmp_path / 'text'}:{tmp_path / 'env'}"}
    assert default_namespace(str(tmp_path / "flag"), None, environ, tmp_path) == "flag"
    assert default_namespace(None, None, environ, tmp_path) == "environment"
    assert default_namespace(None, None, {}, tmp_path) == "home"
    assert default_namespace(None, None, {}, tmp_path / "missing") == "default"
