"""`train`: from labelled images to a model, its score and its run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch

from imprint.core import __version__
from imprint.core.errors import UsageError
from imprint.core.malloc import tune_malloc
from imprint.core.progress import detail, duration, is_heard, progress_bar, say, shown, stage, warn
from imprint.core.scores import estimate_accuracy, score
from imprint.data.images import LabelledImages, LoadedFrom, kind_of
from imprint.data.load import Data, labels_path, load, load_again, parts
from imprint.models.backbones import EfficientNetLite
from imprint.models.hardware import (
    ROWS,
    ComputeConfig,
    adopt_compute_configs,
    choose_compute_config,
    compute_settings,
    cuda_settings,
    free_cores,
    machine_name,
    own_compute_configs,
)
from imprint.models.inference import network_compute_config
from imprint.models.model_file import CHECKPOINT_NAME
from imprint.models.networks import combine
from imprint.preprocessing.input_spec import InputSpec
from imprint.recipes import Recipe, RecipeFields
from imprint.runs.dealing import fit_dealt
from imprint.runs.folder import (
    check_run_folder,
    end_session,
    merge_options,
    new_run_folder,
    run_session,
    storable,
    write_result,
    write_run,
)
from imprint.runs.run import Run
from imprint.training.batches import place_images
from imprint.training.calibration import calibrate, calibrate_probe, confidence_limit, unknown_limit
from imprint.training.checkpoint import (
    ResumableRun,
    TrainingState,
    follow_first,
    read_resumable_run,
    start_network,
)
from imprint.training.distributed import ALONE, Crew, current_crew, train_alone
from imprint.training.estimate import Estimate, estimate_seconds, no_estimate
from imprint.training.fit import fit
from imprint.training.ood_detector import fit_ood_detector
from imprint.training.parent import Parent, read_kept_parent, read_parent
from imprint.training.plan import (
    Plan,
    data_fingerprint,
    decoding_side,
    make_plan,
    seed_random_numbers,
    share_plan,
)


def train(
    images: LabelledImages | Data | None = None,
    recipe: str | Recipe | None = None,
    *,
    validation: float | int | LabelledImages | Data | None = None,
    test: LabelledImages | Data | None = None,
    run: str | Path | bool = False,
    from_model: str | Path | None = None,
    resume: str | Path | None = None,
    label: str | None = None,
    group: str | None = None,
    ids: str | None = None,
    allow_bad: float | None = None,
    classes: Sequence[str] | None = None,
    labels: str | Path | None = None,
    device: str | None = None,
    verbose: bool = True,
    **fields: Unpack[RecipeFields],
) -> Run:
    """Train an image classifier.

    Tunes malloc for the whole process, for good: it halves the time of a training step. With ``deterministic="yes"`` on
    a GPU, the environment variable CUBLAS_WORKSPACE_CONFIG is set for good too. Everything else that it sets (threads,
    denormals, torch's random numbers, cuDNN's way of choosing) is the caller's again afterwards.

    Parameters
    ----------
    images : LabelledImages, path, or what `load` takes; None only with `resume`
        Labelled images of at least two classes.
    recipe : str, Recipe or None, default=None
        A recipe, its name or the path of a recipe.json; None lets the images decide.
    validation : float, LabelledImages, path or None, default=None
        Share to hold out, or other images to validate with; None takes the validation part of data that come divided,
        else the share that the recipe names.
    test : LabelledImages, path or None, default=None
        Images to predict once the model is trained: ``run.result``, and in the run folder result.csv and
        predictions.png.
    run : str, Path or bool, default=False
        The folder to write model, history, scores, curves and predictions into; it must be new or empty. True numbers
        it: ``runs/0001-quick``. False writes nothing.
    from_model : str, Path or None, default=None
        A model file or run folder of the same recipe to start from: the weights, by name those of classes, begin as
        they are in it. Image files are brought into its form. What it held out stays held out, and of the other images
        only new ones are; where nothing tells which it was trained on, the score is called an upper estimate. Of
        ``probe`` the frozen network is kept and the head fitted anew.
    resume : str, Path or None, default=None
        The folder of a run that was stopped; it goes on from its last checkpoint, and ends with the same bytes as an
        uninterrupted run. Whatever else is left out is taken as given when it began.
    label : str or None, default=None
        The column of labels, or a regular expression for them in images' paths; see `load`.
    group : str or None, default=None
        What images share that must stay on one side of the split: a regular expression or a column; see `load`.
    ids : str or None, default=None
        The column of ids, of the test images too; see `load`.
    allow_bad : float or None, default=None
        Share of the images that may be unreadable; None is 0.2.
    classes : sequence of str or None, default=None
        The classes to learn, of the training and validation images; None takes all that have images.
    labels : str, Path or None, default=None
        A list of corrected labels, which replace those of the training images and of the data's own validation part;
        see `load`.
    device : {"auto", "cpu", "cuda", "mps"} or None, default=None
        Where to compute; None is ``"auto"``.
    verbose : bool, default=True
        Whether to tell on stderr how it goes.
    **fields
        Fields of `Recipe` to change, such as ``epochs=3`` or ``learning_rate=0.01``.

    Returns
    -------
    Run
        Model, history, and score on the images held out. After Ctrl-C, those of the best epoch so far.

    Raises
    ------
    DataError
        When data cannot be read, labels are missing or name one class only, or validation images do not fit.
    UsageError
        When recipe, field, folder or device makes no sense, or training diverges.
    KeyboardInterrupt
        On Ctrl-C before the first epoch has ended.

    Examples
    --------
    >>> import imprint
    >>> run = imprint.train("digits", "quick", epochs=2, min_steps=1, seed=1, verbose=False)
    >>> run.validation.images
    144
    """
    with shown(verbose), own_compute_configs():
        tune_malloc()
        free_cores()  # from here on, until the first epoch
        _check_folders(run, resume)
        loading = {"label": label, "group": group, "ids": ids, "allow_bad": allow_bad, "classes": _class_text(classes)}
        loading["labels"] = labels_path(labels)
        _check_loading(images, loading)
        crew = current_crew()
        resumed = _read_resumed(run, resume, crew)
        given = {"data": images, "validation": validation, "test": test, "from_model": from_model}
        with crew.agreement() as facts:
            options = merge_options(given | loading | {"device": device}, resumed)
            base = resumed.recipe if resumed is not None and recipe is None else recipe
            parent = _read_parent(from_model, resumed, taken_up=resume is None)
            if not crew.leads:
                options.pop("test", None)  # the first predicts them for all
            plan, _, test_images = _plan(options, base, fields, parent)
            plan = share_plan(plan, crew, None if resumed is None else resumed.dealt)
            if resumed is not None:
                resumed.check(plan)
            facts |= _agreed_facts(plan)
        folder = _run_folder(plan, run) if resumed is None else resumed.path.parent
        with (
            run_session(folder if crew.leads else None, plan, options, resumed) as checkpoint,
            _training_context(plan, resumed) as estimate,
            progress_bar("training", total=estimate.seconds),
        ):
            first = 0 if resumed is None else resumed.facts["networks"]
            with stage(sum(estimate.features[: first + 1])):
                state = start_network(plan) if resumed is None else resumed.restore(plan)
            if resumed is not None and not plan.dealt:
                say(f"resumed after epoch {len(state.epochs)}")
            if checkpoint is not None:
                checkpoint.write(state)  # a folder that cannot be written to is noticed now
            pixels = place_images(torch.from_numpy(plan.images.pixels), plan.device)
            targets = torch.from_numpy(plan.images.labels_among(plan.images.class_names)).to(plan.device)
            members, detector, interrupted = plan.recipe.networks, None, False
            try:
                if plan.dealt:
                    fit_dealt(state, pixels, targets, folder, checkpoint, storable(options), estimate)
                done = len(state.finished)
                with crew.joined(plan.device):
                    follow_first(state)
                    for index, name in enumerate(members[done:], start=done):
                        if index > done:  # the first was started above, or taken from the checkpoint
                            with stage(estimate.features[index]):
                                state = start_network(plan, state.finished, state.epochs, state.seconds)
                        if len(members) > 1:
                            say(f"network {index + 1} of {len(members)}: {name}")
                        with stage(estimate.networks[index]):
                            fit(state, pixels, targets, checkpoint)
                        state.finished.append(state.network)
                    if plan.recipe.ood_detector:
                        with stage(estimate.ood_detector):
                            detector = fit_ood_detector(plan)
            except KeyboardInterrupt:
                interrupted = True
                _settle_interrupted(state, len(members))
            started_from = None if plan.parent is None else plan.parent.facts(plan.leak)
            with stage(estimate.calibration):
                trained = _calibrate_and_score(state, detector, interrupted)
                trained = replace(trained, folder=folder, parent=started_from, warnings=plan.warnings)
            if folder is not None and crew.leads:
                write_run(trained, plan, options, test_images is not None)
            if test_images is not None:
                trained = replace(trained, result=trained.model.predict(test_images))
                write_result(trained, test_images)
            if checkpoint is not None:
                end_session(checkpoint, interrupted)
        return trained


def train_seeds(
    images: LabelledImages | Data | None,
    recipe: str | Recipe | None = None,
    *,
    seeds: int,
    validation: float | int | LabelledImages | Data | None = None,
    test: LabelledImages | Data | None = None,
    run: str | Path | bool = False,
    label: str | None = None,
    group: str | None = None,
    ids: str | None = None,
    allow_bad: float | None = None,
    classes: Sequence[str] | None = None,
    from_model: str | Path | None = None,
    labels: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    verbose: bool = True,
    **fields: Unpack[RecipeFields],
) -> Iterator[Run]:
    """Train several runs that differ in their seed alone, to see how far chance moves the score; see `train`.

    Within a `run` folder that is named, each has its own: seed-7, seed-8 and so on. Gives each run as it ends; Ctrl-C
    ends the series. Raises `UsageError` where no images are held out, since then there is nothing to compare.
    """
    if resume is not None:
        raise UsageError(f"--seeds {seeds}", "--resume", "one run is resumed at a time", "Leave --seeds out.")
    with shown(verbose):
        _check_folders(run)
        loading = {"label": label, "group": group, "ids": ids, "allow_bad": allow_bad, "classes": _class_text(classes)}
        loading["labels"] = labels_path(labels)
        _check_loading(images, loading)
        given = {"data": images, "validation": validation, "test": test}
        options = merge_options(given | loading | {"device": device})
        crew = current_crew() if run is not False else ALONE  # runs of other processes are read from their folders
        with crew.agreement() as facts:
            plan, validation_given, test_images = _plan(options, recipe, fields, _read_parent(from_model))
            _check_seeds(plan, seeds)
            facts |= _agreed_facts(replace(plan, crew=crew))
        own = range(plan.recipe.seed, plan.recipe.seed + seeds)[crew.rank :: crew.size]
        if crew.size > 1:
            say(f"{seeds} runs dealt to {crew.size} processes")
        folders = list[str]()
        for seed in own:
            fields["seed"] = seed
            with train_alone(crew.size > 1):
                finished = train(
                    plan.images,
                    recipe,
                    validation=validation_given,
                    test=test_images,
                    run=run if isinstance(run, bool) else Path(run) / f"seed-{seed}",
                    from_model=from_model,
                    device=device,
                    **fields,
                )
            folders.append(str(finished.folder))
            yield finished
            if finished.interrupted:
                break
        for rank, others in enumerate(crew.gather(folders)):
            yield from (Run.load(folder) for folder in others if rank != crew.rank)


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """What `dry_run` gives: a run that could begin, how it would compute, and how long it would take."""

    plan: Plan
    compute: ComputeConfig
    estimate: Estimate
    test_images: int | None = None
    seeds: int = 1

    def facts(self) -> dict[str, Any]:
        """Give it as plain JSON values; `estimate` is in seconds."""
        plan, recipe = self.plan, self.plan.recipe
        validation = None if plan.validation is None else len(plan.validation)
        started_from = {} if plan.parent is None else {"parent": plan.parent.facts(plan.leak), "leak": plan.leak}
        return {
            "dry_run": True,
            "recipe": recipe.name,
            "reason": plan.reason,
            "images": {"training": len(plan.training), "validation": validation, "test": self.test_images},
            "classes": plan.images.class_counts(),
            "channels": plan.spec.channels,
            "image_size": list(plan.spec.image_size),
            "input_size": list(plan.spec.input_size),
            "networks": list(recipe.networks),
            "ood_detector": recipe.ood_detector,
            "epochs": recipe.epochs,
            "steps": sum(recipe.epoch_steps(len(plan.training))),
            "batch_size": recipe.batch_size,
            "frozen_blocks": recipe.frozen_blocks,
            "hflip": recipe.hflip,
            "hflip_reason": plan.hflip_reason,
            "seed": recipe.seed,
            "seeds": self.seeds,
            "device": plan.device.type,
            "processes": plan.crew.size,
            "compute": str(self.compute),
            "warnings": list(plan.warnings),
            **started_from,
            "estimate": self.estimate.facts() | {"seconds": round(self.seeds * self.estimate.seconds, 2)},
        }


def dry_run(
    images: LabelledImages | Data | None,
    recipe: str | Recipe | None = None,
    *,
    seeds: int = 1,
    validation: float | int | LabelledImages | Data | None = None,
    test: LabelledImages | Data | None = None,
    run: str | Path | bool = False,
    label: str | None = None,
    group: str | None = None,
    ids: str | None = None,
    allow_bad: float | None = None,
    classes: Sequence[str] | None = None,
    from_model: str | Path | None = None,
    labels: str | Path | None = None,
    resume: str | Path | None = None,
    device: str | None = None,
    **fields: Unpack[RecipeFields],
) -> PlannedRun:
    """Plan a run of `train`, or of so many seeds, without training and without writing a run folder.

    Refuses all that `train` would refuse before it begins.
    """
    if resume is not None:
        raise UsageError("--dry-run", "--resume", "a run that was begun is planned already", "Leave --dry-run out.")
    with shown():
        _check_folders(run)
        loading = {"label": label, "group": group, "ids": ids, "allow_bad": allow_bad, "classes": _class_text(classes)}
        loading["labels"] = labels_path(labels)
        _check_loading(images, loading)
        given = {"data": images, "validation": validation, "test": test}
        options, crew = merge_options(given | loading | {"device": device}), current_crew()
        with crew.agreement() as facts:
            plan, _, test_images = _plan(options, recipe, fields, _read_parent(from_model))
            plan = share_plan(plan, crew)
            facts |= _agreed_facts(plan)
        if seeds > 1:
            _check_seeds(plan, seeds)
        check_run_folder(run)
        with _compute_context(plan) as compute:
            estimate = estimate_seconds(plan)
        return PlannedRun(plan, compute, estimate, None if test_images is None else len(test_images), seeds)


def _check_seeds(plan: Plan, seeds: int) -> None:
    """Refuse a series of runs that could not be compared, or whose last seed is too large."""
    if plan.validation is None:
        cause = "without validation images there is nothing to compare"
        raise UsageError(f"{seeds} seeds", "--seeds", cause, "Hold some out, such as --validation 0.08.")
    plan.recipe.with_fields({"seed": plan.recipe.seed + seeds - 1}, "--seeds")


def _check_folders(run: object, resume: object = None) -> None:
    """Refuse what names no folder; `run` may be a truth value, `resume` may be None."""
    for name, folder, kinds in (("run", run, (str, PathLike, bool)), ("resume", resume, (str, PathLike, type(None)))):
        if not isinstance(folder, kinds):
            raise UsageError(name, "train", f"{kind_of(folder)} is no path", f'Give {name}="runs/mine".')


def _class_text(classes: Sequence[str] | None) -> str | None:
    """Spell names of classes as one text, which a checkpoint can hold."""
    names = [classes] if isinstance(classes, str) else classes
    return None if names is None else json.dumps([str(name) for name in names])


def _check_loading(images: object, options: dict[str, Any]) -> None:
    """Refuse options of reading data where the images have been read already."""
    given = [name for name, value in options.items() if value is not None]
    if given and isinstance(images, LabelledImages):
        cause = "the images have been loaded already, so it would change nothing"
        raise UsageError(f"{given[0]}={options[given[0]]}", "train", cause, f"Give {given[0]} to imprint.load.")


def _read_resumed(run: str | Path | bool, resume: str | Path | None, crew: Crew) -> ResumableRun | None:
    """Read where the run to resume, or one in the folder to write to, was stopped; refuse two different ones.

    One process reads, and tells the others all but the tensors.
    """
    read: list[ResumableRun] = []

    def facts() -> dict[str, Any] | None:
        named = None if isinstance(run, bool) else Path(run)
        folder = named if resume is None else Path(resume)
        if folder is None or (resume is None and not (folder / CHECKPOINT_NAME).is_file()):
            return None
        if named is not None and named.resolve() != folder.resolve():
            raise UsageError(f"--run {run}", "--resume", f"the run goes on in {folder}", "Leave --run out.")
        read.append(read_resumable_run(folder))
        return {"path": str(read[0].path), "facts": read[0].facts}

    told = crew.told(facts)
    if told is None or read:
        return read[0] if read else None
    return ResumableRun.from_facts(Path(told["path"]), told["facts"], {})


def _run_folder(plan: Plan, run: str | Path | bool) -> Path | None:
    """Make the run folder, which is one for all processes."""

    def made() -> str | None:
        folder = new_run_folder(plan.recipe.name, run)
        return None if folder is None else str(folder)

    folder = plan.crew.told(made)
    return None if folder is None else Path(folder)


def _agreed_facts(plan: Plan) -> dict[str, Any]:
    """Give what must be the same in all processes that train together."""
    if plan.crew.size == 1:
        return {}
    versions = {"version of Imprint": __version__, "version of torch": str(torch.__version__)}
    fields = {f"recipe field {name}": value for name, value in plan.recipe.to_dict().items()}
    kind = {"device": plan.device.type, "kind of machine": machine_name(plan.device)}
    return versions | fields | {"data": data_fingerprint(plan)} | kind


def _read_parent(
    from_model: str | Path | None, resumed: ResumableRun | None = None, taken_up: bool = False
) -> Parent | None:
    """Read the model to start from, of a resumed run the copy that it kept; the same command names it once more."""
    if resumed is None:
        return None if from_model is None else read_parent(from_model)
    if from_model is not None and not taken_up:
        cause = f"the run in {resumed.path.parent} goes on from where it was stopped"
        raise UsageError(f"--from {from_model}", "--resume", cause, "Leave --from out.")
    facts = resumed.facts.get("parent")
    return None if facts is None else read_kept_parent(resumed.path.parent, facts)


def _plan(
    options: dict[str, Any], recipe: str | Recipe | None, fields: RecipeFields, parent: Parent | None
) -> tuple[Plan, float | int | LabelledImages | None, LabelledImages | None]:
    """Read all data and settle the run; gives what validates, as it was given, and the test images too."""
    images, validation = _read_data(options, recipe, fields, parent)
    plan = make_plan(images, recipe, validation=validation, device=options["device"], parent=parent, **fields)
    return plan, validation, _read_test(options, plan)


def _read_data(
    options: dict[str, Any], recipe: str | Recipe | None, fields: RecipeFields, parent: Parent | None
) -> tuple[LabelledImages, float | int | LabelledImages | None]:
    """Read the images to learn from, and settle what validates: a share, other images, or the data's own part."""
    data, validation = options["data"], options.get("validation")
    classes: dict[str, Any] = {"classes": json.loads(options["classes"])} if "classes" in options else {}
    own = classes | ({"labels": options["labels"]} if "labels" in options else {})
    columns = {key: options[key] for key in ("label", "group") if options.get(key) is not None}
    if isinstance(data, LabelledImages | LoadedFrom):
        images = _images(data)
    else:
        form = {"side": decoding_side(recipe, **fields)} if parent is None else {"spec": parent.form}
        images = load(data, **form, **columns, ids=options.get("ids"), allow_bad=options["allow_bad"], **own)
    spec = InputSpec.from_shape(images.shape, images.pixel_range, images.background)
    if validation is None:
        undivided = isinstance(data, LabelledImages | LoadedFrom) or options.get("ignore_parts", False)
        divided = not undivided and "validation" in parts(data)
        if divided and "validation_fraction" in fields:
            what, cause = f"validation_fraction={fields['validation_fraction']}", "the data have a validation part"
            remedy = "Leave it out, or hold images of the training part out with --validation SHARE."
            raise UsageError(what, "train", cause, remedy)
        label = options.get("label")
        return images, load(data, part="validation", spec=spec, label=label, **own) if divided else None
    if isinstance(validation, Real):
        return images, float(validation)
    return images, _images(validation, spec=spec, **classes)


def _images(given: LabelledImages | LoadedFrom | Data, **options: Any) -> LabelledImages:
    """Give images that are there, load again what a run began with, or load what is named."""
    if isinstance(given, LabelledImages):
        return given
    return load_again(given) if isinstance(given, LoadedFrom) else load(given, **options)


def _read_test(options: dict[str, Any], plan: Plan) -> LabelledImages | None:
    """Read the test images, and check before training that the model will take them."""
    test = options.get("test")
    if test is None:
        return None
    test_images = _images(test, spec=plan.spec, ids=options.get("ids"), allow_bad=1.0)
    plan.spec.check(test_images.shape, test_images.name, test_images.pixel_range, test_images.background)
    return test_images


@contextmanager
def _training_context(plan: Plan, resumed: ResumableRun | None = None) -> Iterator[Estimate]:
    """Compute as this machine is fastest, with random numbers that the recipe's seed decides, meanwhile.

    Says what will be done, and how long it will take.
    """
    say(plan.data_line)
    say(plan.recipe_line)
    if plan.start:
        say(plan.start)
    with _compute_context(plan) as compute:
        detail(f"{plan}; {compute}")
        estimate = no_estimate(plan)
        if is_heard():
            estimate = estimate_seconds(plan, 0 if resumed is None else len(resumed.epochs))
            say(f"{plan.work_line}: {duration(estimate.seconds)}")
        for warning in plan.warnings:
            warn(warning)
        seed_random_numbers(plan)
        yield estimate


@contextmanager
def _compute_context(plan: Plan) -> Iterator[ComputeConfig]:
    """Compute as this machine is fastest meanwhile; torch's random numbers are as before afterwards."""
    precisions = plan.recipe.precision, "float32"  # that of all predictions: checked before threads are set
    if plan.crew.size > 1:
        chosen = plan.crew.told(lambda: {one: asdict(choose_compute_config(plan.device, one)) for one in precisions})
        adopt_compute_configs(plan.device, {one: ComputeConfig(**config) for one, config in chosen.items()})
    compute, _ = (choose_compute_config(plan.device, one) for one in precisions)
    devices = [plan.device] if plan.device.type == "cuda" else []
    deterministic, threads = plan.recipe.deterministic == "yes", plan.recipe.threads or compute.threads
    if plan.crew.size > 1:  # each has some of the machine's cores, also where the run began with one that had all
        threads = min(threads, torch.get_num_threads())
    with (
        compute_settings(threads),
        cuda_settings(plan.device, deterministic),
        torch.random.fork_rng(devices),
    ):
        yield compute


def _settle_interrupted(state: TrainingState, members: int) -> None:
    """Settle what is kept after Ctrl-C, and say it; where there is nothing to keep, Ctrl-C goes on."""
    if len(state.finished) == members:
        say("stopped: the model is kept, without its OOD detector")
    elif state.finished:
        say(f"stopped: of {members} networks, {len(state.finished)} kept")
    elif state.best_weights is None:
        raise KeyboardInterrupt
    else:
        say("stopped: the best epoch so far is kept; its score chose it, so expect slightly less")
        state.network.load_state_dict(state.best_weights)


def _calibrate_and_score(state: TrainingState, detector: TrainingState | None, interrupted: bool) -> Run:
    """Calibrate what was trained, score it on the images held out, and estimate its accuracy on new ones."""
    plan, recipe, seconds = state.plan, state.kept_recipe(), state.seconds
    if detector is not None:
        recipe, seconds = replace(recipe, ood_detector=plan.recipe.ood_detector), seconds + detector.seconds
        detector.network.float()
    network = combine(state.finished or [state.network]).eval().float()  # of float64, too, predictions are float32
    if network_compute_config(network, plan.device).layout == ROWS:  # as it will be when loaded from its file
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    judged, predictions, method, folds = plan.validation, None, "held-out", 0
    if plan.cross_validated and isinstance(network, EfficientNetLite):
        model, predictions, found = calibrate_probe(network, plan, recipe)
        judged, method, folds = plan.images, found.method, found.folds
    else:
        model = calibrate(network, None if detector is None else detector.network, plan, recipe)
    parent = None if plan.parent is None else {"sha256": plan.parent.digest, "leak": plan.leak}
    model = replace(model, label_header=plan.images.headers[1] or model.label_header, parent=parent)
    if judged is None or plan.no_score_because:
        limit = unknown_limit(recipe.trust, 0 if judged is None else len(judged), method)
        model, because = replace(model, unsure_below=limit.below), plan.no_score_because
        return Run(model, recipe, state.history, seconds, interrupted, limit=limit, no_score_because=because)
    labels = judged.labels_among(model.class_names)
    predictions = model.predict(judged) if predictions is None else predictions
    # Temperature and limits were settled on these images, but neither changes an answer. After Ctrl-C the best
    # epoch was chosen by them, though; the estimate corrects for that selection.
    tries = len(state.epochs) if interrupted and not state.finished else 1
    expected = estimate_accuracy(predictions.labels == labels, judged.groups, tries, method, folds)
    weight, correct = expected.effective / expected.images, predictions.labels == labels
    limit = confidence_limit(predictions, correct, recipe.trust, weight, tries, method)
    predictions = replace(predictions, unsure_below=limit.below)
    validation = score(predictions.probabilities, labels, model.class_names, predictions.why, method, folds)
    facts = validation.facts() | {"unsure": validation.unsure, "trust": limit.facts()}
    model = replace(model, unsure_below=limit.below, score=facts)
    return Run(model, recipe, state.history, seconds, interrupted, validation, predictions, expected, limit=limit)
