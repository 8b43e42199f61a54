"""The panel of the App: a tab for each part of the way from a tag to reviewed labels."""

from __future__ import annotations

from fiftyone_ntt.panels.ntt_review import NttReview

PANELS = (NttReview,)
"""Every panel of the plugin; ``fiftyone.yml`` lists the same names."""
