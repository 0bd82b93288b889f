"""A model of EMQX for the platform: its configuration, its login request, and its evaluation of topics.

EMQX itself does not run here. The model follows its source at 5.8.9: topic rules apply from top to bottom and the
first match decides; a placeholder without a value makes a rule match nothing; a requested filter is compared
with a rule's as if it were a topic, word by word; `$share/{group}/` is removed before.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pyhocon import ConfigFactory, ConfigTree

from tests.processes import ROOT

DEPLOY = ROOT / "deploy" / "emqx"
_PLACEHOLDER = re.compile(r"\$\{([\w.]+)\}")


@cache
def configuration() -> ConfigTree:
    """emqx.conf with what it includes."""
    return ConfigFactory.parse_file(str(DEPLOY / "emqx.conf"), resolve=False)


# --- The request at CONNECT ---------------------------------------------------------------------------------


def render(template: str, values: Mapping[str, str]) -> str:
    """Placeholders replaced; one without a value by nothing."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], ""), template)


def request_of(values: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the body of the request that the configuration makes for a client."""
    (asked,) = [each for each in configuration()["authentication"] if each["backend"] == "http"]
    headers = {name.strip('"'): value for name, value in asked["headers"].items()}
    return headers, {name: render(template, values) for name, template in asked["body"].items()}


# --- acl.conf -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Client:
    """A connected client: its name, and what the platform said of it."""

    username: str
    attributes: Mapping[str, str]


Term = Any  # of Erlang: an atom or a string (as a Word or a str), a tuple or a list of terms


class Word(str):
    """An atom."""


def read_acl(path: Path = DEPLOY / "acl.conf") -> list[Term]:
    """The rules of the file. Raises ValueError where it is not what EMQX would read."""
    text = re.sub(r"%.*", "", path.read_text())
    tokens = re.findall(r'"[^"]*"|[a-z_]\w*|[{}\[\],.]|\S', text)
    reader, rules = iter(tokens), []
    for token in reader:
        rules.append(_term(token, reader))
        if next(reader, "") != ".":
            raise ValueError(f"A rule ends with a full stop: {rules[-1]}")
    return rules


def _term(token: str, tokens: Iterator[str]) -> Term:
    if token in "{[":
        end, items = {"{": "}", "[": "]"}[token], []
        while True:
            items.append(_term(next(tokens), tokens))
            separator = next(tokens)
            if separator == end:
                return tuple(items) if token == "{" else items
            if separator != ",":
                raise ValueError(f"{separator!r} stands where a comma should")
    if token.startswith('"'):
        return token[1:-1]
    if re.fullmatch(r"[a-z_]\w*", token):
        return Word(token)
    raise ValueError(f"{token!r} was not expected")


def evaluate(rules: list[Term], client: Client, action: str, topic: str) -> str:
    """`allow` or `deny`; `no_match` where no rule says it."""
    if action == "subscribe" and topic.startswith("$share/"):
        topic = topic.split("/", 2)[2]
    for rule in rules:
        if rule == (Word("deny"), Word("all")):
            return "deny"
        permission, who, actions, filters = rule
        if actions in (action, "all") and _is(client, who) and any(_fits(client, topic, each) for each in filters):
            return str(permission)
    return "no_match"


def _is(client: Client, who: Term) -> bool:
    match who:
        case ("client_attr", name, value):
            return client.attributes.get(name) == value
        case ("username", name):
            return client.username == name
        case _:
            raise ValueError(f"{who} is not a condition that is known here")


def _fits(client: Client, topic: str, template: str) -> bool:
    values = {f"client_attrs.{name}": value for name, value in client.attributes.items()}
    if any(name not in values for name in _PLACEHOLDER.findall(template)):
        return False
    return _words_fit(topic.split("/"), render(template, values).split("/"))


def _words_fit(words: list[str], pattern: list[str]) -> bool:
    if pattern == ["#"]:
        return True
    if not words or not pattern:
        return words == pattern
    return pattern[0] in ("+", words[0]) and _words_fit(words[1:], pattern[1:])
