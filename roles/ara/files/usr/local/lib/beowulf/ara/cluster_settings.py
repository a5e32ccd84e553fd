"""ARA's settings for Django, and what they leave out: a password that is checked quickly, and cookies for TLS alone.

ARA logs every request in by its password (HTTP Basic, RFC 7617), and Django's many rounds of PBKDF2 take half a second each, on a
small board some seconds. They make up for passwords that people think of. A long random one cannot be guessed with any number of rounds.
"""

from __future__ import annotations

from ara.server.settings import *  # noqa: F403
from django.contrib.auth.hashers import PBKDF2PasswordHasher

LONG = 40
ROUNDS = 1000


class ClusterPasswordHasher(PBKDF2PasswordHasher):
    """Django's own, with few rounds for long passwords."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        """Return the hash of a password, as it is stored."""
        return super().encode(password, salt, iterations or (ROUNDS if len(password) >= LONG else self.iterations))

    def must_update(self, encoded: str) -> bool:
        """Say whether a stored hash is out of date; the password it is of, and so the right number of rounds, is not known here."""
        return self.decode(encoded)["iterations"] != ROUNDS and super().must_update(encoded)


PASSWORD_HASHERS = ["cluster_settings.ClusterPasswordHasher"]
# Only the pages of Django's administration use them.
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
