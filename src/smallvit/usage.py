"""What is wrong with a command line, in one line and with the nearest right name; made of what tyro reports."""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from typing import Annotated, cast, get_args, get_origin, get_type_hints

from tyro.conf import Positional, Suppress

from smallvit.checks import did_you_mean

_NO_OPTION = {get_args(Positional[str])[1], get_args(Suppress[str])[1]}
_NO_NUMBER = {
    r"invalid literal for int\(\) with base 10: (.+)": "a whole number",
    r"could not convert string to float: (.+)": "a number",
    r"no type matching \{None\}\|INT could be instantiated from \[(.+)\]": "a whole number or None",
    r"no type matching \{None\}\|FLOAT could be instantiated from \[(.+)\]": "a number or None",
    r"Could not parse arguments \[(.*?)\] into tuple type .*": "two numbers",
    r"no type matching \{None\}\|\{FLOAT FLOAT\} could be instantiated from \[(.*)\]": "two numbers or None",
}
"""What tyro says of a value that is no number, and what is allowed there."""


def one_line(box: str, options: Collection[str], help_command: str) -> str:
    """Return the message of tyro's error box, without its frame and help text.

    `options` are those that the command has, and `help_command` is what lists them.
    """
    message = _message(box)
    choice = re.fullmatch(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*)\)\.", message)
    if choice:
        allowed = re.findall(r"'([^']*)'", choice[3])
        return f"{choice[2]} is {choice[1]!r}; {did_you_mean(choice[1], allowed)}allowed are {', '.join(allowed)}"
    missing = re.match(r"Missing from (.*?): (\S+) (.*?)\.? \(required\)", message)
    if missing:
        return f"{missing[1]} needs {missing[2]} ({missing[3]}); see {help_command}"
    if without := re.match(r"Missing value for argument '(.*?)'\. Expected (\d+)", message):
        number = "a value" if without[2] == "1" else f"{without[2]} values"
        return f"{without[1]} needs {number}; see {help_command}"
    for words, allowed in _NO_NUMBER.items():
        if wrong := re.fullmatch(rf"Error parsing (\S+): {words}", message):
            return f"{wrong[1]} is {wrong[2] or 'empty'}: it must be {allowed}"
    unknown = re.match(r"Unrecognized(?: or misplaced)? options: ([^\s,]+)", message)
    if unknown and not unknown[1].startswith("-"):
        return f"unexpected {unknown[1]!r}; see {help_command}"
    if unknown:
        option = unknown[1].split("=")[0]
        if option in options:
            return f"{option} has no place there; see {help_command}"
        return f"unknown option {option}; {_meant(option, options)}see {help_command}"
    return message


def options_of(kind: type, prefix: str = "--") -> Iterator[str]:
    """Yield the long options of a command, those of a config within it by their dotted names."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if is_dataclass(plain):
            yield from options_of(cast("type", plain), prefix if name == "config" else f"{prefix}{name}.")
        elif not _NO_OPTION & {*get_args(hint)}:
            yield prefix + name.replace("_", "-")


def _meant(option: str, options: Collection[str]) -> str:
    """Return "did you mean X? " with the options that one without its section stands for, or begins, or is near to."""
    if "." in option:
        return did_you_mean(option, options)
    word, names = option.removeprefix("--"), {each: each.removeprefix("--").split(".")[-1] for each in options}
    same = [each for each, name in names.items() if name == word]
    begun = [each for each, name in names.items() if name.startswith(f"{word}-")]
    nearest = difflib.get_close_matches(word, names.values(), n=1, cutoff=0.65)
    near = [each for each, name in names.items() if name in nearest]
    found = same or begun or near
    return f"did you mean {' or '.join(found)}? " if found else ""


def _message(box: str) -> str:
    lines = [re.sub("[│╭╮╰╯]", "", line).strip() for line in box.splitlines()]
    body = [line for line in lines[1:] if line]
    if body and _is_rule(body[0]):  # where the output is not UTF-8 the title is underlined instead of framed
        body = body[1:]
    end = next((index for index, line in enumerate(body) if _is_rule(line)), len(body))
    return re.sub(r"\. Got errors: .*", "", " ".join(body[:end]))


def _is_rule(line: str) -> bool:
    return len(line) > 3 and set(line) <= {"─", "-"}
