"""The panel's tab "References": what the examples are, what may be wrong with them, and what to do next."""

from __future__ import annotations

import base64
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import reference_fields
from fiftyone_ntt.errors import NttError
from fiftyone_ntt.operators import selection
from fiftyone_ntt.panels import layout

PLUGIN = "@fiftyone-ntt/ntt"
MOST_SHOWN = 60
"""Thumbnails: what a browser still draws at once, and more than a person looks at."""
THUMBNAIL = 112
_READING_SECONDS = 0.05
"""How long images are read in one event; the rest follows in the next ones."""
_NARROW = "fit-content"
EMPTY = """
**No references yet.** Select a few images that show what you want to find (or single labels in an opened image), and
press **Use selection as references**.

The objects in them need a box, a mask, a point or a scribble each: open an image and press *Annotate* to draw some.
"""


class ReferencesTab:
    """Draws the tab and answers its events; mixed into the panel."""

    def load_references(self, ctx: Any) -> None:
        """Called when the tab is opened, and when what it shows may have changed."""
        fields = reference_fields(ctx.dataset)
        field = ctx.panel.state.references_field
        if field not in fields:
            field = _likely_field(ctx.dataset, fields)
        ctx.panel.state.references_field = field
        self._load_references(ctx, field)

    def _load_references(self, ctx: Any, field: str | None) -> None:
        from fiftyone_ntt.references.gallery import count_references

        counts = count_references(ctx.dataset, field) if field else {}
        ctx.panel.state.references_counts = counts
        rows = [{"class": name, "count": count} for name, count in counts.items()]
        ctx.panel.set_data("references_table", rows)
        banks = _bank_rows(ctx.dataset, counts)
        ctx.panel.state.references_banks = len(banks)
        ctx.panel.set_data("references_bank_table", banks)
        ctx.panel.state.references_cards = []
        self._load_gallery(ctx, field)

    def _load_gallery(self, ctx: Any, field: str | None) -> None:
        """Fills the gallery as far as time allows; a timer goes on while some pictures are missing."""
        from fiftyone_ntt.references.gallery import describe_references

        cards = []
        if field and ctx.panel.state.references_counts:
            cards = describe_references(ctx.dataset, field, most=MOST_SHOWN, seconds=_READING_SECONDS)
        before = ctx.panel.state.references_cards or []
        shown: list[dict[str, Any]] = []
        for i, card in enumerate(cards):
            picture = card.thumbnail(THUMBNAIL, "JPEG")
            shown.append(
                {"class": card.label, "kind": card.kind, "warnings": list(card.warnings), "seen": bool(picture)}
            )
            there = len(before) == len(cards) and before[i]["seen"]
            if picture and not there:
                uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
                ctx.panel.set_data(f"{_group(shown)}.card_{i}.picture", uri)
        ctx.panel.state.references_cards = shown
        ctx.panel.state.references_pending = sum(card.pending for card in cards)

    def draw_references(self, ctx: Any, panel: types.Object) -> None:
        """Adds the tab's content to the panel."""
        counts = ctx.panel.state.references_counts or {}
        _draw_fields(self, ctx, panel)
        if counts:
            table = layout.table({"class": "class", "count": "references"})
            panel.list("references_table", types.Object(), view=table, label="What your references show")
        else:
            panel.md(EMPTY, name="references_empty")
        _draw_buttons(self, panel, bool(counts))
        if counts:
            row = panel.grid("references_help", orientation="2d", gap=1)
            row.btn("advice", "Which references help?", icon="tips_and_updates", variant="outlined", width=_NARROW,
                    on_click=self.on_references_advice)  # fmt: skip
            if any(card["kind"] in ("box", "point", "scribble") for card in ctx.panel.state.references_cards or []):
                row.btn("masks", "Make their masks...", icon="format_shapes", variant="outlined", width=_NARROW,
                        on_click=self.on_references_masks)  # fmt: skip
        _draw_gallery(panel, ctx.panel.state.references_cards or [], sum(counts.values()))
        if ctx.panel.state.references_banks:
            table = layout.table({"name": "memory bank", "classes": "references", "preset": "models", "fresh": ""})
            panel.list("references_bank_table", types.Object(), view=table, label="Memory banks kept with this dataset")
        if ctx.panel.state.references_pending:
            timer = types.TimerView(interval=400, on_interval=self.on_references_more)
            panel.view("references_timer", view=timer)

    def on_references_field(self, ctx: Any) -> None:
        """The person chooses another field."""
        ctx.panel.state.references_field = ctx.params.get("value")
        self.load_references(ctx)

    def on_references_refresh(self, ctx: Any) -> None:
        """Something outside the panel may have changed the references."""
        self.load_references(ctx)

    def on_references_more(self, ctx: Any) -> None:
        """Time for the pictures that are missing."""
        self._load_gallery(ctx, ctx.panel.state.references_field)

    def on_references_use(self, ctx: Any) -> None:
        """What is selected becomes references."""
        self._change(ctx, True)

    def on_references_remove(self, ctx: Any) -> None:
        """What is selected stops being references."""
        self._change(ctx, False)

    def _change(self, ctx: Any, add: bool) -> None:
        try:
            selection.change_references(ctx, add=add, label_field=ctx.panel.state.references_field)
        except NttError as error:
            ctx.ops.notify(str(error), variant="warning")
        labels = selection.selected_labels(ctx)
        if labels:
            ctx.panel.state.references_field = labels[0][0]
        self.load_references(ctx)

    def on_references_build(self, ctx: Any) -> None:
        """Opens the form of the memory bank."""
        params = {"label_field": ctx.panel.state.references_field}
        ctx.prompt(f"{PLUGIN}/build_memory_bank", params=params, on_success=self.on_references_refresh)

    def on_references_preview(self, ctx: Any) -> None:
        """Looks at four images, at once."""
        params = {"label_field": ctx.panel.state.references_field}
        ctx.prompt(f"{PLUGIN}/preview", params=params, skip_prompt=True)

    def on_references_advice(self, ctx: Any) -> None:
        """Opens the form of the advice on references."""
        params = {"label_field": ctx.panel.state.references_field}
        ctx.prompt(f"{PLUGIN}/advise_references", params=params)

    def on_references_masks(self, ctx: Any) -> None:
        """Opens the form that makes masks from boxes, points and scribbles."""
        params = {"label_field": ctx.panel.state.references_field}
        ctx.prompt(f"{PLUGIN}/make_reference_masks", params=params, on_success=self.on_references_refresh)

    def on_references_label(self, ctx: Any) -> None:
        """Opens the form of a labelling run."""
        ctx.prompt(f"{PLUGIN}/segment", on_success=self.on_references_refresh)


def _likely_field(dataset: Any, fields: list[str]) -> str | None:
    from fiftyone_ntt.references.tagging import likely_field

    return likely_field(dataset) if fields else None


def _bank_rows(dataset: Any, counts: dict[str, int]) -> list[dict[str, str]]:
    from fiftyone_ntt.references.banks import list_banks

    rows = []
    for name in list_banks(dataset):
        config = dataset.get_run_info(name).config
        shots = dict(zip(config.classes, config.shots, strict=True))
        listed = ", ".join(f"{count} {label}" for label, count in shots.items())
        fresh = "as tagged now" if shots == counts else "the references have changed since: build it again"
        rows.append({"name": name, "classes": listed, "preset": config.preset, "fresh": fresh})
    return rows


def _draw_fields(tab: ReferencesTab, ctx: Any, panel: types.Object) -> None:
    """Which labels count; nothing to choose where there is one field only."""
    fields = reference_fields(ctx.dataset)
    if len(fields) < 2:
        return
    view = types.DropdownView(label="Labels to learn from")
    for name in fields:
        view.add_choice(name, label=name)
    panel.enum("references_field", fields, view=view, on_change=tab.on_references_field)


def _draw_buttons(tab: ReferencesTab, panel: types.Object, any_references: bool) -> None:
    row = panel.grid("references_selection", orientation="2d", gap=1)
    row.btn(
        "use",
        "Use selection as references",
        icon="bookmark_add",
        variant="contained",
        width=_NARROW,
        on_click=tab.on_references_use,
    )
    row.btn("remove", "Remove selection from references", icon="bookmark_remove", variant="outlined", width=_NARROW,
            on_click=tab.on_references_remove)  # fmt: skip
    row.btn("refresh", "Refresh", icon="refresh", width=_NARROW, on_click=tab.on_references_refresh)
    if not any_references:
        return
    row = panel.grid("references_next", orientation="2d", gap=1)
    row.btn(
        "preview",
        "Preview on 4 images",
        icon="visibility",
        variant="contained",
        width=_NARROW,
        on_click=tab.on_references_preview,
    )
    row.btn(
        "build",
        "Build memory bank",
        icon="collections_bookmark",
        variant="outlined",
        width=_NARROW,
        on_click=tab.on_references_build,
    )
    row.btn(
        "label",
        "Label images...",
        icon="auto_awesome",
        variant="outlined",
        width=_NARROW,
        on_click=tab.on_references_label,
    )


def _group(shown: list[dict[str, Any]]) -> str:
    """The part of the gallery that the last card belongs to: one a class."""
    return f"references_group_{len({card['class'] for card in shown})}"


def _draw_gallery(panel: types.Object, cards: list[dict[str, Any]], total: int) -> None:
    group, last, drawn = None, None, []
    for i, card in enumerate(cards):
        drawn.append(card)
        if card["class"] != last:
            last = card["class"]
            panel.md(f"**{last}**", name=f"references_heading_{i}")
            group = panel.grid(_group(drawn), orientation="2d", gap=2)
        if group is not None:
            _draw_card(group, i, card)
    if total > len(cards) > 0:
        panel.md(f"{total - len(cards)} more are not shown.", name="references_more")


def _draw_card(group: types.Object, i: int, card: dict[str, Any]) -> None:
    box = group.v_stack(f"card_{i}", gap=0, width=f"{THUMBNAIL + 24}px")
    if card["seen"]:
        box.str("picture", view=types.ImageView(width=f"{THUMBNAIL}px", height=f"{THUMBNAIL}px", alt=card["class"]))
    text = card["kind"] + "".join(f"\n\n⚠ {warning}" for warning in card["warnings"])
    box.md(text, name="text")
