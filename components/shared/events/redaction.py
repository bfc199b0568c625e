"""Secrets removed from text before it is logged, spooled or sent.

An exception's message may quote a password, a token or a URL with one in it. What is known to be secret here, by the
name of its environment variable or because it was read from a mounted secret, is replaced wherever it appears; what
only looks like a secret is replaced by its shape. A secret that is short or a plain word, as "status", is replaced only
where it is the whole password of a URL, or the whole value of a header, option or setting: elsewhere it may be an
ordinary word, or a directory in the path of a command that a message asks the user to run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

REDACTED = "[redacted]"

# Shorter values would blot out numbers and articles.
_SHORTEST = 4
# Shorter ones are found within ordinary words and numbers.
_SHORTEST_STRONG = 8
_LONGEST_WORD = 15  # hardly a word in a dictionary is longer; tokens are
_LINE_OF_A_KEY = 16
_SECRET_NAME = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN(?!IZ)|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE
)
_NOT_SECRET_NAME = re.compile(r"(_FILE|_PATH|_DIR|_ENDPOINT|_URL|_ID|_PROVIDER)$", re.IGNORECASE)
_NOT_SECRET_VALUES = frozenset({"true", "false", "none", "null"})  # of switches such as REQUIRE_TOKEN


def _without_value(setting: re.Match[str]) -> str:
    name, sign, quote, _ = setting.groups()
    # PASSWORD_FILE: /run/secrets/password cannot be read
    return setting[0] if _NOT_SECRET_NAME.search(name) else f"{name}{sign}{quote}{REDACTED}"


# Searched once: the name may be of many thousand characters, and hold such a name many times.
_NAME = r"(?i)\b(?=\w*(?:password|passwd|secret|token|api_?key|private_key))(\w++)"
_VALUE = r"(\\?['\"]?)(?!\[redacted\])([^\s'\",;&)}\]]{4,})"
_SETTING = (re.compile(rf"{_NAME}(\\?['\"]?\s*[=:]\s*){_VALUE}"), _without_value)
# A message of ours is about what stands before its colon, and goes on in words: "secret: must be the name of one".
_SETTING_IN_A_MESSAGE = (re.compile(rf"{_NAME}(\\?['\"]\s*[=:]\s*|\s*=\s*){_VALUE}"), _without_value)
_SHAPES = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REDACTED),
    (re.compile(r"(?<=://)[^/\s:@]*:[^/\s]+(?=@)"), REDACTED),
    (re.compile(r"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    # Not "basic training": base64 is more than small letters.
    (re.compile(r"\b((?i:basic))\s+(?=[a-z]*[A-Z0-9+/=])[A-Za-z0-9+/=]{8,}"), rf"\1 {REDACTED}"),
)

# Where a weak secret is one: the beginnings of such values, with their opening quote. Options are --db-password and
# -password; in the text of a list the value follows as '--password', 'status'.
_FULL_NAME = r"[\w.-]{0,64}(?:password|passwd|passphrase|pwd|secret|token|(?:api|private|access)[_-]?key)[\w.-]{0,64}"
_WEAK_PLACES = (
    r"://(?:[^/\s:@]*:)?(?=[^/\s@]*@)",
    r"[?&][^\s?&=#]+=",
    r"authorization\\?['\"]?\s*[:=]\s*\\?['\"]?(?:[\w-]+\s+)?",
    rf"(?<![\w.-]){_FULL_NAME}\\?['\"]?\s*[:=]\s*\\?['\"]?",
    rf"(?<![\w.-])--?{_FULL_NAME}(?:\\?['\"]?,)?\s+\\?['\"]?",
)
# A full stop may end a sentence, or a file's name go on.
_WEAK_END = r"(?![\w/-]|\.\w)"

# One pass that most texts end with: nothing in them begins like a shape.
_MAY_HOLD_A_SHAPE = re.compile(r"(?i)-----BEGIN|://|bearer|basic|passw|secret|token|key")

registered_secrets: set[tuple[str, bool]] = set()


def register_secret(value: str) -> None:
    """Remember a secret that was read from a file or a client, so that it is never written out."""
    registered_secrets.update(_forms(value))


def _forms(value: str) -> Iterator[tuple[str, bool]]:
    """A secret in each form that texts have, and whether it is weak: a key's lines, as Python and JSON quote it."""
    # Not a key's first and last line: by them the shape of any other key is known.
    lines = (line for line in value.splitlines() if len(line) >= _LINE_OF_A_KEY and not line.startswith("-----"))
    for part in (value, *lines):
        if len(part) >= _SHORTEST:
            # Texts are made valid UTF-8 before they come here.
            text = part.encode("utf-8", "backslashreplace").decode()
            forms = (text, repr(part)[1:-1], json.dumps(part)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
            yield from ((form, _is_weak(part)) for form in forms)


def _is_weak(secret: str) -> bool:
    """Whether a secret is short or a plain word, so that texts hold it without meaning it."""
    is_word = secret.isalpha() and (secret.islower() or secret.istitle()) and len(secret) <= _LONGEST_WORD
    return is_word or len(secret) < _SHORTEST_STRONG


def names_a_secret(name: str, value: str = "") -> bool:
    """Whether a variable's value is secret by its name; not of those that name where the secret is kept."""
    if value.lower() in _NOT_SECRET_VALUES:
        return False
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET_NAME.search(name)


def _without_weak(token: re.Match[str]) -> str:
    # --password-file status is where the secret is kept
    name = token[1].strip("\\'\", :=").replace("-", "_")
    return token[0] if _NOT_SECRET_NAME.search(name) else f"{token[1]}{REDACTED}"


class Redactor:
    """Removes the secrets of the environment as it was when this was made, and those registered since."""

    def __init__(self) -> None:
        secrets = [value for name, value in os.environ.items() if names_a_secret(name, value)]
        self._named = {form for value in secrets for form in _forms(value)}
        self._known = -1  # registered secrets
        self._strong: list[str] = []
        self._weak: list[str] = []
        self._weak_tokens = re.compile(r"(?!)")

    def __call__(self, text: str, *, message: bool = False) -> str:
        """A text without the secrets in it; in a message of ours words follow the name of an option and a colon."""
        if len(registered_secrets) != self._known:
            self._known = len(registered_secrets)
            self._sort(self._named | registered_secrets)
        for secret in self._strong:
            if secret in text:
                text = text.replace(secret, REDACTED)
        if any(secret in text for secret in self._weak):
            text = self._weak_tokens.sub(_without_weak, text)
        if _MAY_HOLD_A_SHAPE.search(text):
            for shape, replacement in (*_SHAPES, _SETTING_IN_A_MESSAGE if message else _SETTING):
                text = shape.sub(replacement, text)
        return text

    def _sort(self, forms: set[tuple[str, bool]]) -> None:
        """Longer first: one secret may contain another."""
        self._strong = sorted({form for form, is_weak in forms if not is_weak}, key=len, reverse=True)
        self._weak = sorted({form for form, _ in forms}.difference(self._strong), key=len, reverse=True)
        if self._weak:
            values = "|".join(map(re.escape, self._weak))
            self._weak_tokens = re.compile(rf"(?i:({'|'.join(_WEAK_PLACES)}))(?:{values}){_WEAK_END}")


def redact(text: str) -> str:
    """A text without the secrets that are known now."""
    return Redactor()(text)


def redact_message(text: str) -> str:
    """A message of ours without the secrets that are known now, such as in a value that it quotes."""
    return Redactor()(text, message=True)
