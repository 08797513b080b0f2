"""Models (and machines) as data: each row says where it comes from and how that is known."""

from __future__ import annotations
