"""The topics a group owns: their names, and making sure that they exist and keep their promises."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import durations
from .errors import SettingsError

_LEGAL = re.compile(r"[a-zA-Z0-9._-]+")
_DELAY = re.compile(r"[0-9]+(?:ms|[dhms])")
_LONGEST_NAME = 249
_LONGEST_DELAY = "9" * 10 + "ms"


@dataclass(frozen=True, slots=True)
class GroupTopics:
    """The names of the topics that belong to one group.

    Each template holds `{group}`, so that no two groups share a topic; the retry template
    holds `{delay}` too, once and between dots, dashes or underscores, so that a name says
    which delay it stands for. Raises SettingsError for names that Kafka refuses and for
    templates that make the same name.
    """

    group: str
    retry_template: str
    replay_template: str
    dlq_template: str
    replay: str = field(init=False)
    dlq: str = field(init=False)
    _prefix: str = field(init=False, repr=False)
    _suffix: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for kind, template in self._templates():
            if "{group}" not in template:
                raise SettingsError(
                    f"the {kind} topic's template {template!r} lacks {{group}}: two groups would "
                    f"take each other's messages; write it like 'my.{{group}}.{kind}'"
                )
        before, found, after = self.retry_template.partition("{delay}")
        if not found or "{delay}" in after or before[-1:].isalnum() or after[:1].isalnum():
            raise SettingsError(
                f"the retry topic's template {self.retry_template!r} needs {{delay}} once, between "
                "dots, dashes or underscores, like '{group}.retry.{delay}'"
            )
        if before.endswith("}") or after.startswith("{"):
            raise SettingsError(
                f"the retry topic's template {self.retry_template!r} needs a dot, dash or "
                "underscore between {group} and {delay}"
            )
        settle = object.__setattr__
        settle(self, "_prefix", before.replace("{group}", self.group))
        settle(self, "_suffix", after.replace("{group}", self.group))
        settle(self, "replay", self.replay_template.replace("{group}", self.group))
        settle(self, "dlq", self.dlq_template.replace("{group}", self.group))
        for (kind, template), name in zip(
            self._templates(),
            (f"{self._prefix}{_LONGEST_DELAY}{self._suffix}", self.replay, self.dlq),
            strict=True,
        ):
            fault = _fault(name)
            if fault:
                raise SettingsError(
                    f"group {self.group!r} makes no legal {kind} topic of {template!r}: {fault}; "
                    "change the group or the template"
                )
        self._refuse_collisions()

    def _templates(self) -> tuple[tuple[str, str], ...]:
        return (
            ("retry", self.retry_template),
            ("replay", self.replay_template),
            ("dlq", self.dlq_template),
        )

    def _refuse_collisions(self) -> None:
        if _metric(self.replay) == _metric(self.dlq):
            raise SettingsError(
                f"group {self.group!r}: replay topic {self.replay!r} and dead-letter topic "
                f"{self.dlq!r} are the same to Kafka; change one of their templates"
            )
        for name in (self.replay, self.dlq):
            if self._delay_text(_metric(name), _metric(self._prefix), _metric(self._suffix)):
                raise SettingsError(
                    f"group {self.group!r}: topic {name!r} would be taken for a retry topic of "
                    f"{self.retry_template!r}; change one of the templates"
                )

    def retry(self, delay: float) -> str:
        """The retry topic for a delay in seconds: 60 is `shop.retry.1m`."""
        return f"{self._prefix}{durations.canonical(delay)}{self._suffix}"

    def delay_of(self, name: str) -> float | None:
        """The delay in seconds that a retry topic of this group stands for, declared by a
        handler or not; None for any other topic."""
        text = self._delay_text(name, self._prefix, self._suffix)
        if text is None:
            return None
        delay = durations.seconds(text)
        return delay if durations.canonical(delay) == text else None

    def owns(self, name: str) -> bool:
        """Whether the topic is this group's retry, replay or dead-letter topic."""
        return name in (self.replay, self.dlq) or self.delay_of(name) is not None

    @staticmethod
    def _delay_text(name: str, prefix: str, suffix: str) -> str | None:
        if not (name.startswith(prefix) and name.endswith(suffix)):
            return None
        text = name[len(prefix) : len(name) - len(suffix)]
        return text if _DELAY.fullmatch(text) else None


def _fault(name: str) -> str | None:
    """Why Kafka refuses a topic of this name."""
    if name in ("", ".", ".."):
        return f"Kafka refuses {name!r}"
    if _LEGAL.fullmatch(name) is None:
        bad = next(one for one in name if _LEGAL.fullmatch(one) is None)
        return f"{bad!r} is not among a-z A-Z 0-9 . _ -"
    if len(name) > _LONGEST_NAME:
        return f"{len(name)} characters are more than Kafka's {_LONGEST_NAME}"
    return None


def _metric(name: str) -> str:
    """The name as Kafka compares it: in its metrics a dot is an underscore, so it refuses to
    create `a.b` beside `a_b`."""
    return name.replace(".", "_")
