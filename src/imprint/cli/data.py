"""Verbs about data: show, check and cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imprint.cli.options import (
    AsJson,
    Classes,
    Data,
    Group,
    Label,
    Processes,
    class_list,
    print_json,
    read_model,
    share_out,
    unused,
    writable,
)
from imprint.core.errors import UsageError
from imprint.core.progress import say

if TYPE_CHECKING:
    from imprint.data.images import LabelledImages
    from imprint.data.quality import Finding, Findings

# What a verb needs is imported inside it: `imprint --help` must not wait for torch.


def show(
    data: Data,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.png", callback=writable, help="Draw labelled images here.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=400, help="How many images to draw.")] = 5,
    augmented: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", callback=writable, help="Draw images beside versions of them as training sees them."
        ),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="Whose versions. Left out, the images decide.")] = None,
    seen_by: Annotated[
        Path | None, typer.Option("--as", metavar="MODEL", help="Draw what a model sees of an image, step by step.")
    ] = None,
    label: Label = None,
    as_json: AsJson = False,
) -> None:
    """Say what the data is: count, size, channels, classes and first rows."""
    if recipe is not None and augmented is None:
        raise unused("--recipe", "without --augmented")
    if augmented is not None and seen_by is not None:
        raise unused("--augmented", "with --as")
    if seen_by is not None:
        _show_as(data, seen_by, save, as_json)
        return
    from imprint.data.load import load
    from imprint.report.tables import preview

    images = load(data, label=label)
    if as_json:
        channels, height, width = images.shape
        facts = {"images": len(images), "channels": channels, "height": height, "width": width}
        print_json(facts | {"classes": images.class_counts()})
    else:
        print(preview(images))
    if save is not None:
        from imprint.report.plots import save_samples

        save_samples(images, save, count)
        say(f"wrote {save}")
    if augmented is not None:
        from imprint.report.plots import save_augmented
        from imprint.training.plan import make_plan

        plan = make_plan(images, recipe)
        save_augmented(images, plan.spec, plan.recipe, augmented, count)
        say(f"wrote {augmented}")


def _show_as(image: str, model: Path, save: Path | None, as_json: bool) -> None:
    """Draw what a model sees of one image file, step by step."""
    from imprint.data.decoding.decode import decode
    from imprint.preprocessing.input_spec import fitting_steps
    from imprint.report.plots import save_steps

    if not Path(image).is_file():
        raise UsageError("--as", image, "it draws one image, and that is no file", "Name the file of an image.")
    spec = read_model(model).spec
    decoded = decode(Path(image), pixel_range=spec.pixel_range, background=spec.background)
    steps = fitting_steps(decoded.pixels, spec)
    save = save or Path(f"{Path(image).stem}-seen.png")
    save_steps(steps, save)
    if as_json:
        print_json({"files": [str(save)]})
    else:
        print(save)


def check(
    data: Data,
    against: Annotated[
        str | None, typer.Option(metavar="DATA", help="Other data, such as a test set, that must share no image.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with status 1 if anything was found.")] = False,
    save: Annotated[
        Path | None, typer.Option(metavar="REPORT.html", callback=writable, help="Write a page with images.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.csv",
            callback=writable,
            help="Write the data for train, without copies, leaks and blank images.",
        ),
    ] = None,
    fix_labels: Annotated[
        bool, typer.Option("--fix-labels", help="With --fix: leave out images that are probably mislabelled too.")
    ] = False,
    labels: Annotated[bool, typer.Option(help="Look for wrong labels.")] = True,
    seed: Annotated[int, typer.Option(help="Of the networks that judge labels.")] = 7,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    processes: Processes = None,
    label: Label = None,
    group: Group = None,
    classes: Classes = None,
    read_by: Annotated[
        Path | None,
        typer.Option("--as", metavar="MODEL", help="Try whether a model reads the images better turned or inverted."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with images and labels: unreadable, doubled, leaking, wrongly labelled and more."""
    share_out(processes)
    from dataclasses import replace

    from imprint.analysis.doctor import check as examine
    from imprint.data.load import load, parts
    from imprint.preprocessing.input_spec import InputSpec
    from imprint.report.tables import findings_table
    from imprint.training.launching import crew_of_torchrun

    if fix_labels and (fix is None or not labels):
        cause = "it leaves wrongly labelled images out of the list that --fix writes, and needs them found"
        raise UsageError("--fix-labels", "check", cause, "Give --fix OUT.csv, and not --no-labels.")
    chosen = class_list(classes)
    images = load(data, label=label, group=group, allow_bad=1.0, classes=chosen)
    form = InputSpec.from_shape(images.shape, images.pixel_range, images.background)
    others = [load(data, part=part, spec=form, label=label, allow_bad=1.0) for part in parts(data)[1:]]
    others += [] if against is None else [load(against, spec=form, allow_bad=1.0)]
    turned = None if read_by is None else _orientation(data, read_by)
    with crew_of_torchrun() as crew:
        findings = examine(images, against=others, labels=labels, seed=seed, device=device)
    if not crew.leads:
        return
    if turned is not None:
        findings = replace(findings, findings=(turned, *findings.findings))
    if as_json:
        print_json(findings.to_dict())
    else:
        print(findings_table(findings))
    for note in findings.notes:
        say(note)
    if save is not None:
        from imprint.report.doctor_page import write_page

        write_page(findings, [images, *others], save)
        say(f"wrote {save}")
    if fix is not None:
        _write_fixed(images, findings, fix, fix_labels)
    if strict and findings.findings:
        raise typer.Exit(1)


def _orientation(data: str, path: Path) -> Finding | None:
    """Find whether a model reads the data better turned, mirrored or inverted."""
    from imprint.analysis.orientation import find_better_orientation
    from imprint.data.quality import Finding

    model = read_model(path)
    images = model.ready(data)
    better = find_better_orientation(model, images)
    return None if better is None else Finding("orientation", (images.name,), str(better), better.accuracy)


def _write_fixed(images: LabelledImages, findings: Findings, path: Path, labels: bool) -> None:
    """Write the cleaned list, and say what it leaves out and why."""
    from imprint.analysis.doctor import write_cleaned
    from imprint.data.quality import KINDS

    counts = write_cleaned(images, findings, path, labels)
    say(f"wrote {counts.pop(''):,} of {len(images):,} images to {path}")
    unreadable = len(findings.of("unreadable"))
    left_out = ({"unreadable": unreadable} if unreadable else {}) | counts
    if left_out:
        say("left out: " + ", ".join(f"{count:,} {KINDS[kind]}" for kind, count in left_out.items()))
    if kept := len(findings.of("label")) - counts.get("label", 0):
        hint = "too uncertain to leave out unseen" if labels else "look at them, or leave them out with --fix-labels"
        say(f"kept: {kept:,} {KINDS['label']}; {hint}")


def cache(
    limit: Annotated[
        float | None, typer.Option(min=0, metavar="GB", help="Remove what was used longest ago until the rest fits.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove everything.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the decoded images kept for the next run; bound them, or clear them."""
    from imprint.data import cache as kept
    from imprint.report.tables import cache_table

    if clear and limit is not None:
        raise UsageError(f"--limit {limit:g}", "cache", "--clear removes everything", "Leave one of the two out.")
    if clear or limit is not None:
        removed = kept.clear() if clear else kept.bound(int((limit or 0) * 1e9))
        say(f"removed {removed / 1e6:,.1f} MB")
    entries = kept.entries()
    if as_json:
        facts = [{"name": one.name, "pictures": one.images, "bytes": one.size, "used": one.used} for one in entries]
        print_json({"folder": str(kept.folder()), "limit": kept.limit(), "entries": facts})
    else:
        print(cache_table(str(kept.folder()), kept.limit(), entries))
