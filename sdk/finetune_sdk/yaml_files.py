"""YAML as kubectl reads it: YAML 1.2, so that 5e-5 is a number, with the booleans and octal numbers of YAML 1.1.

A file means the same here as in a cluster, and what is written here means the same to kubectl. The source is the table
of go-yaml 2, which kubectl and Helm use.
"""

import re
from collections.abc import Iterable
from typing import Any, TextIO

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

_TAG = "tag:yaml.org,2002:"
_WORDS = ("y", "yes", "on", "n", "no", "off")
_BOOLEANS = {form for word in _WORDS for form in (word, word.capitalize(), word.upper())}


def documents_of(text: str) -> list[Any]:
    """The documents of a YAML stream. Raises YAMLError."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    return list(yaml.load_all(text))


def write_documents(documents: Iterable[Any], out: TextIO) -> None:
    """Write a YAML stream. A text such as a label `no` is quoted: kubectl would read a boolean."""
    yaml = YAML()
    yaml.Resolver = _Resolver
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump_all(documents, out)


class _Resolver(VersionedResolver):  # type: ignore[misc] # ruamel has no types
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0] and value in _BOOLEANS:
            return Tag(suffix=f"{_TAG}bool")
        return super().resolve(kind, value, implicit)


class _Constructor(SafeConstructor):  # type: ignore[misc]
    def whole(self, node: Any) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        return int(text, 8) if re.fullmatch("[-+]?0[0-7]+", text) else int(self.construct_yaml_int(node))

    def number(self, node: Any) -> float:
        """1e3 becomes 1000 on its way to the API server, which takes it for a whole number."""
        value = float(self.construct_yaml_float(node))
        return int(value) if value.is_integer() else value


_Constructor.add_constructor(f"{_TAG}int", _Constructor.whole)
_Constructor.add_constructor(f"{_TAG}float", _Constructor.number)
_Constructor.add_constructor(f"{_TAG}timestamp", _Constructor.construct_scalar)
