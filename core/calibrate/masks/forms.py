"""The forms of training by name. A new form is a :class:`Strategy` and one entry here."""

from __future__ import annotations

from .exchange import Exchange
from .local_search import LocalSearch
from .per_call import Interleaved, Sequential
from .settings import Form, TrainSettings
from .strategy import Strategy
from .windowed import Windowed

FORMS: dict[Form, type[Strategy]] = {
    "search": LocalSearch,
    "exchange": Exchange,
    "windowed": Windowed,
    "interleaved": Interleaved,
    "sequential": Sequential,
    "paper": Interleaved,
}


def unused(settings: TrainSettings) -> list[str]:
    """Names of settings that differ from their defaults, and that other forms use but this one does not.

    Example:
        >>> unused(TrainSettings(form="search", lr=0.5))
        ['lr']
    """
    of_some = frozenset().union(*(form.reads for form in FORMS.values()))
    return sorted(settings.changed() & of_some - FORMS[settings.form].uses(settings))
