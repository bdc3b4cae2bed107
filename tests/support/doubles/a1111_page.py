"""A panel at a page, as a user sets it."""

from __future__ import annotations

from typing import Any

from doubles import a1111

from skipstone.a1111_extension.table import FIELDS


class Page:
    """A panel at a page: an event sets values, and each value that changed has a change event."""

    def __init__(self, host: a1111.Host, img2img: bool = False) -> None:
        self.host, self.script = host, host.script(img2img)
        self.panel = host.module._script.PANELS["img2img" if img2img else "txt2img"]
        self.made = dict(zip(FIELDS, self.panel.components, strict=True))

    def set(self, what: str | a1111.Component, value: Any, event: str = "input") -> None:
        component = self.made[what] if isinstance(what, str) else what
        before = self._values()
        component.set(value, event)
        while changed := [c for c, old in before if c.value != old]:
            before = self._values()
            for one in changed:
                one.act("change")

    def _values(self) -> list[tuple[a1111.Component, Any]]:
        host = (getattr(self.script, name) for name in a1111.SHOWN)
        return [(c, c.value) for c in (*self.panel.components, self.panel.methods, *host)]

    def __getitem__(self, name: str) -> Any:
        return self.made[name].value

    def choose(self, *methods: str) -> None:
        self.set(self.panel.methods, list(methods))

    def paste(self, params: dict[str, Any]) -> None:
        before = self._values()
        a1111.paste(self.script, params)
        for component, old in before:
            if component.value != old:
                component.act("change")

    @property
    def shown(self) -> set[str]:
        return {name for name, part in self.panel.parts.items() if getattr(part, "visible", True)}

    @property
    def told(self) -> str:
        return str(self.panel.outlook.value)

    def generate(self, job: a1111.Job, **changes: Any) -> list[str]:
        """Status and header after a picture."""
        for name, value in changes.items():
            setattr(job, name, value)
        self.host.process_images(self.script, job, *(c.value for c in self.panel.components))
        self.panel.ended.act("click")
        return [self.panel.last_run.value, self.panel.gain.value]
