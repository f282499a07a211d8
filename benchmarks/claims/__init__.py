"""The claims, a file each: every one gives a `claim.Table` for a `Size`."""

from claims.size import Size, dependent

__all__ = ["Size", "dependent"]
