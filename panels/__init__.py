"""Panels of the plugin. There are none yet: review uses the App's own tools (filters, the Annotate tab)."""

from __future__ import annotations
