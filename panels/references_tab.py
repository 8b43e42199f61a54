"""The panel's tab "References": what the examples are, what may be wrong with them, and what to do next."""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

from fiftyone.operators import types

from fiftyone_ntt.dataset.fields import reference_fields
from fiftyone_ntt.errors import NttError, as_text
from fiftyone_ntt.operators.forms import as_markdown
from fiftyone_ntt.operators.references import change_references, selected_labels
from fiftyone_ntt.panels.tabs import Handle, Tab, choice, table
from fiftyone_ntt.params.wording import for_app

MOST_SHOWN = 60
"""Thumbnails: what a browser still draws at once, and more than a person looks at."""
THUMBNAIL = 112
_READING_SECONDS = 0.05
"""How long images are read in one event; the rest follows in the next ones."""
_NARROW = "fit-content"
_PROMPTED = ("box", "point", "scribble")
"""Kinds of labels that masks can be made from."""
EMPTY = """
**No references yet.** Select a few images that show what you want to find (or single labels in an opened image), and
press **Use selection as references**.

The objects in them need a box, a mask, a point or a scribble each: open an image and press *Annotate* to draw some.
"""


class ReferencesTab(Tab):
    """Shows the references and the memory banks, and leads on to a preview and to a run."""

    KEY, TITLE = "references", "1 References"

    def events(self) -> dict[str, Handle]:
        return {
            "refresh": self.load,
            "field": self._choose_field,
            "more": self._fill_gallery,  # time for the pictures that are missing
            "use": partial(self._change, add=True),
            "remove": partial(self._change, add=False),
            "build": partial(self._open, operator="build_memory_bank", then="refresh"),
            "preview": partial(self._open, operator="preview", at_once=True),
            "advice": partial(self._open, operator="advise_references"),
            "masks": partial(self._open, operator="make_reference_masks", then="refresh"),
            "label": self._label,
        }

    def load(self, ctx: Any) -> None:
        from fiftyone_ntt.dataset.fields import image_samples
        from fiftyone_ntt.references.tagging import count_references, images_of, likely_field

        state, fields = ctx.panel.state, reference_fields(ctx.dataset)
        images = images_of(ctx.dataset) if fields else ctx.dataset
        if state.references_field not in fields:
            state.references_field = likely_field(images) if fields else None
        field = state.references_field
        counts = count_references(images, field) if field else {}
        if field and not counts:
            image_samples(ctx.dataset)  # nothing to be selected in a slice without images: says which one to open
        state.references_counts = counts
        ctx.panel.set_data("references_table", [{"class": name, "count": count} for name, count in counts.items()])
        banks = _bank_rows(ctx.dataset, field if counts else None)
        state.references_banks = len(banks)
        ctx.panel.set_data("references_bank_table", banks)
        state.references_cards = []
        self._fill_gallery(ctx)

    def render(self, ctx: Any, panel: types.Object) -> None:
        state = ctx.panel.state
        counts, cards = state.references_counts or {}, state.references_cards or []
        self._render_fields(ctx, panel)
        if counts:
            view = table({"class": "class", "count": "references"})
            panel.list("references_table", types.Object(), view=view, label="What your references show")
        else:
            panel.md(EMPTY, name="references_empty")
        self._render_buttons(panel, bool(counts), any(card["kind"] in _PROMPTED for card in cards))
        _render_gallery(panel, cards, sum(counts.values()))
        if state.references_banks:
            view = table({"name": "memory bank", "classes": "references", "preset": "models", "fresh": ""})
            panel.list("references_bank_table", types.Object(), view=view, label="Memory banks kept with this dataset")
        if state.references_pending:
            panel.view("references_timer", view=types.TimerView(interval=400, on_interval=self.on("more")))

    def _render_fields(self, ctx: Any, panel: types.Object) -> None:
        """Which labels count; nothing to choose where there is one field only."""
        fields = reference_fields(ctx.dataset)
        if len(fields) > 1:
            view = choice(fields, label="Reference labels")
            panel.enum("references_field", fields, view=view, on_change=self.on("field"))

    def _render_buttons(self, panel: types.Object, any_references: bool, any_prompted: bool) -> None:
        rows = {"references_selection": [
            ("use", "Use selection as references", "bookmark_add", "contained"),
            ("remove", "Remove selection from references", "bookmark_remove", "outlined"),
            ("refresh", "Refresh", "refresh", None),
        ]}  # fmt: skip
        if any_references:
            rows["references_next"] = [
                ("preview", "Preview on 4 images", "visibility", "outlined"),
                ("label", "Label images", "auto_awesome", "contained"),
            ]
            rows["references_help"] = [
                ("advice", "Check references", "tips_and_updates", "outlined"),
                ("build", "Build memory bank", "collections_bookmark", "outlined"),
            ]
            if any_prompted:
                rows["references_help"].append(("masks", "Make reference masks", "format_shapes", "outlined"))
        for name, buttons in rows.items():
            self.add_buttons(panel.grid(name, orientation="2d", gap=1), buttons, width=_NARROW)

    def _choose_field(self, ctx: Any) -> None:
        ctx.panel.state.references_field = ctx.params.get("value")
        self.load(ctx)

    def _change(self, ctx: Any, add: bool) -> None:
        """What is selected becomes references, or stops being some."""
        try:
            change_references(ctx, add=add, label_field=ctx.panel.state.references_field)
        except NttError as error:
            ctx.ops.notify(for_app(error), variant="warning")
        labels = selected_labels(ctx)
        if labels:  # the field of what was just tagged is the one to look at
            ctx.panel.state.references_field = labels[0][0]
        self.load(ctx)

    def _label(self, ctx: Any) -> None:
        """Opens the form of a run, which finds the references by itself unless another field was chosen."""
        from fiftyone_ntt.references.tagging import images_of, likely_field

        field = ctx.panel.state.references_field
        known = field is None or field == likely_field(images_of(ctx.dataset))
        then = self.panel.tabs["runs"].on("started")
        self.prompt(ctx, "segment", None if known else {"reference_field": field}, then=then)

    def _open(self, ctx: Any, *, operator: str, **options: Any) -> None:
        """Opens a form about the references of the chosen field."""
        self.prompt(ctx, operator, {"label_field": ctx.panel.state.references_field}, **options)

    def _fill_gallery(self, ctx: Any) -> None:
        """Fills the gallery as far as time allows; a timer goes on while some pictures are missing."""
        from fiftyone_ntt.references.gallery import describe_references
        from fiftyone_ntt.references.tagging import images_of

        state, references = ctx.panel.state, []
        if state.references_field and state.references_counts:
            references = describe_references(
                images_of(ctx.dataset), state.references_field, most=MOST_SHOWN, seconds=_READING_SECONDS
            )
        before = state.references_cards or []
        classes = sorted({reference.label for reference in references})  # as a bank orders them
        cards: list[dict[str, Any]] = []
        for i, reference in enumerate(references):
            picture = reference.thumbnail(THUMBNAIL, "JPEG", classes)
            cards.append({
                "class": reference.label, "kind": reference.kind, "warnings": list(reference.warnings),
                "seen": bool(picture),
            })  # fmt: skip
            sent = len(before) == len(references) and before[i]["seen"]
            if picture and not sent:
                uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
                ctx.panel.set_data(f"{_group(cards)}.card_{i}.picture", uri)
        state.references_cards = cards
        state.references_pending = sum(reference.pending for reference in references)


def _bank_rows(dataset: Any, field: str | None) -> list[dict[str, str]]:
    """The memory banks, and which of them is of the references as they are tagged now."""
    from fiftyone_ntt.references.banks import bank_summaries
    from fiftyone_ntt.references.tagged_bank import plan_bank

    banks = bank_summaries(dataset)
    plan = plan_bank(dataset, field) if banks and field else None
    rows = []
    for name, bank in banks.items():
        listed = ", ".join(f"{count} {as_text(label)}" for label, count in bank.shots.items())
        fresh = "as tagged now" if plan is not None and plan.fresh and plan.name == name else ""
        if plan is not None and not plan.fresh and plan.name == name:
            fresh = "the references have changed since: Label images builds it again"
        rows.append({"name": name, "classes": listed, "preset": bank.preset, "fresh": fresh})
    return rows


def _group(cards: list[dict[str, Any]]) -> str:
    """The part of the gallery that the last card belongs to: one a class."""
    return f"references_group_{len({card['class'] for card in cards})}"


def _render_gallery(panel: types.Object, cards: list[dict[str, Any]], total: int) -> None:
    group = None
    for i, card in enumerate(cards):
        if group is None or card["class"] != cards[i - 1]["class"]:
            panel.md(f"**{as_markdown(card['class'], 200)}**", name=f"references_heading_{i}")
            group = panel.grid(_group(cards[: i + 1]), orientation="2d", gap=2)
        _render_card(group, i, card)
    if total > len(cards) > 0:
        panel.md(f"{total - len(cards)} more are not shown.", name="references_more")


def _render_card(group: types.Object, i: int, card: dict[str, Any]) -> None:
    box = group.v_stack(f"card_{i}", gap=0, width=f"{THUMBNAIL + 24}px")
    if card["seen"]:
        box.str(
            "picture", view=types.ImageView(width=f"{THUMBNAIL}px", height=f"{THUMBNAIL}px", alt=as_text(card["class"]))
        )
    text = as_markdown(card["kind"]) + "".join(f"\n\n⚠ {as_markdown(warning)}" for warning in card["warnings"])
    box.md(text, name="text")
