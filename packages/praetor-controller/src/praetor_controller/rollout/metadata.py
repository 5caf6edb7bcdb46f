"""Whether a process has the labels, annotations and notes of its template. Pure."""

from __future__ import annotations

from praetor_controller.model.rows import ProcessRow, Template


class Metadata:
    """What processes of one template shall have."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._model: ProcessRow | None = None  # has all of it; most processes share its very objects

    def differs(self, process: ProcessRow) -> bool:
        """Tell whether *process* lacks any of it."""
        template, model = self._template, self._model
        if model is not None and (
            process.labels is model.labels
            and process.annotations is model.annotations
            and process.revision is model.revision
            and process.managed is model.managed
        ):
            return False
        has = (
            process.revision == template.revision
            and process.managed == template.managed
            and template.labels <= process.labels
            and template.annotations <= process.annotations
        )
        if has:
            self._model = process
        return not has
