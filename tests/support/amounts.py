"""Words for amounts, to look for "1 labels" in source and in what a person reads."""

from __future__ import annotations

import re

NOUNS = (
    "annotations|banks|boxes|candidates|changes|channels|classes|colours|copies|crops|days|decisions|detections|devices|"
    "drawings|edits|entries|errors|fields|files|frames|groups|hours|images|instances|items|labels|layers|maps|masks|"
    "matches|minutes|mistakes|negatives|notes|objects|ones|operations|parts|people|pictures|points|predictions|prompts|"
    "proposals|prototypes|references|regions|rows|runs|samples|seconds|settings|shots|steps|suggestions|tags|things|"
    "thresholds|tiles|times|values|vectors|views|weights|workers"
)
_ONE = re.compile(rf"(?<![\d.,/])1 (?:(?P<between>[a-z-]+) )?(?:{NOUNS})\b")


def wrong_amounts(text: str) -> list[str]:
    """``"1 labels"`` and the like in a text; of ``"1 label with masks"`` the first noun is the one that counts."""
    return [
        found[0]
        for found in _ONE.finditer(text)
        if not (found["between"] and re.fullmatch(NOUNS, _plural(found["between"])))
    ]


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"
