"""How an argument NAME=VALUE is written so that shell and Hydra hand its value on as it is."""
from __future__ import annotations

import re
import shlex


def quoted_argument(argument: str) -> str:
    """NAME=VALUE for a POSIX shell: 'data.root="/a b/c=d,e"'; of a list, [A,B], each item in quotes of its own."""
    name, _, value = argument.partition("=")
    if len(value) > 1 and value[0] == "[" and value[-1] == "]":
        return shlex.quote(f"{name}=[{','.join(quoted_value(item.strip()) for item in value[1:-1].split(','))}]")
    return shlex.quote(f"{name}={quoted_value(value)}")


def quoted_value(text: str) -> str:
    """A text in Hydra's double quotes: a backslash counts before a quote and at the end, and ${ would be looked up."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text  # it is already
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{escaped.replace("${", chr(92) + "${")}"'
