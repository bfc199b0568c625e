"""What is a secret in a document that many may read: by the name it stands under, or by a shape that only secrets have.

How random a text looks is no criterion, because digests do. A log is redacted by less
(:mod:`components.shared.events.redaction`): there too much does no harm, and here it stops a pipeline.
"""

from __future__ import annotations

import re

from components.shared.events.redaction import names_a_secret
from pipelines.compiled import PLACEHOLDER

_ALSO_NAMES_ONE = re.compile(
    r"(CREDENTIALS?|(ENCRYPTION|SIGNING|SSH|AUTH|ACCOUNT|STORAGE|SHARED)_?KEY|CONNECTION_?STRING|(^|_)JWT"
    # Not every pass: FIRST_PASS, PASS.
    r"|(^|_)(DB|DATABASE|SQL|MYSQL|PG|POSTGRES|MONGO|REDIS|RABBITMQ|MQTT|KAFKA|LDAP|SMTP|MAIL|FTP|SSH|HTTP|PROXY|USER"
    r"|ADMIN|ROOT|LOGIN|AUTH|API|BASIC)_?(PASS|PWD))$",
    re.IGNORECASE,
)
# Says where a secret is, how many of them, what is done with them, or which token of a text is meant.
_NAMES_NONE = re.compile(
    r"(_(FILE|PATH|DIR|NAME|NAMES|VERSION|REF|COUNT|LIMIT|LENGTH|LEN|SIZE|TTL|URI|URL|ARN|TYPE|KEY_NAME|BUDGET|POLICY"
    r"|IDS|BACKEND|STORE|MANAGER|ENGINE|MODE|DIM|LEVEL|POOLING|CLASSIFICATION|EMBEDDINGS?|MERGING|HEADER|FIELD|PROJECT"
    r"|DROPOUT|RATE|RATIO)"
    r"|^(MAX|MIN|NUM|N)_\w*TOKENS?|TOKENS?_PER_\w+"
    r"|^(PAD|EOS|BOS|UNK|SEP|CLS|MASK|SPECIAL|STOP|START|END|IMAGE|AUDIO|VIDEO|TEXT)_TOKENS?(_IDS?)?)$",
    re.IGNORECASE,
)
# Where it is kept instead: Secret Manager, a vault, another variable.
_REFERENCE = re.compile(
    r"([a-z-]*sm://|projects/[^/]+/secrets/|vault:|arn:aws:secretsmanager:"
    r"|\$\([^()]+\)|\$\{[^{}]+\}|\$[A-Z_][A-Z0-9_]*$|%\()"
)
# A path in a file system; base64 has + and = besides.
_PATH = re.compile(r"(?:~|\.{1,2})?(?:/[\w.@-]{1,40})+/?|[\w.@-]+(?:/[\w.@-]+)*\.(?:json|p12|pem|key|txt|ya?ml)")
_SWITCHES = frozenset({"yes", "no", "on", "off", "true", "false", "none", "null", "strict", "required", "optional"})
_AN_AMOUNT = re.compile(r"[0-9]{1,7}(\.[0-9]+)?[KMBT]?")

_SHAPES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\s|\\[nr])*(?:Proc-Type|[A-Za-z0-9+/=]{16,})")),
    ("an access key of AWS", re.compile(r"\b(?:AKIA|ASIA)(?![A-Z0-9]*EXAMPLE\b)[A-Z0-9]{16}\b")),
    ("an API key of Google", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("an access token of Google", re.compile(r"\bya29\.[0-9A-Za-z_-]{20,}")),
    ("a token of GitHub", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("a token of Slack", re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}")),
    ("a token of Hugging Face", re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")),
    ("a JSON web token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    (
        "a login in a header",
        re.compile(r"(?i)\bauthorization['\"]?\s*[:=]\s*['\"]?(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,}"),
    ),
    (
        "a password inside a URL",
        # Not {user}:{password} of source code, nor the text of an example.
        re.compile(
            r"\b[a-z][a-z0-9+.-]*://[^/\s:@'\"{}<>$%]*:(?!(?:pass|passwd|password|pwd|x+|\*+)@)(?:[^/\s@'\"{}<>$%]|%[0-9A-Fa-f]{2})+@[\w\[]"
        ),
    ),
)


def secret_shape(value: str) -> tuple[str, str] | None:
    """What a text holds that only secrets look like, and that part of it; None: nothing."""
    return next(((what, match[0]) for what, shape in _SHAPES if (match := shape.search(value))), None)


def is_secret(name: str, value: str) -> bool:
    """Whether a name says that the value is secret, and the value is one and not where one is kept.

    Args:
        name: Of a variable, a parameter, an option, a label.
        value: What it is set to.
    """
    plain = value.strip()
    if not plain or plain.lower() in _SWITCHES or _NAMES_NONE.search(name):
        return False
    if _REFERENCE.match(plain) or PLACEHOLDER.search(plain):
        return False
    if _PATH.fullmatch(plain):  # GOOGLE_APPLICATION_CREDENTIALS and the like name a file
        return False
    if re.search("token", name, re.IGNORECASE) and _AN_AMOUNT.fullmatch(plain):
        return False  # so many of them
    if _ALSO_NAMES_ONE.search(name):
        return not re.fullmatch(r"[a-z0-9]+://[^:@]*", plain)
    return names_a_secret(name, plain)


def name_of_label(key: str) -> str:
    """The last part of a label's or an annotation's key, as the name of its value."""
    return re.sub(r"[-.]", "_", key.rpartition("/")[2])
