"""What the commands about layouts are asked about."""

from __future__ import annotations

from coalesce.cli.options import Group, Option

LAYOUT = Group("Layout", (Option((), "the layout's name", "NAME", field="layout_name"),))
KEYS = Group("Layout", (Option((), "keys to try", "KEY", repeatable=True, field="keys"),))
