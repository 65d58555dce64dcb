"""The experts and the saved models that the commands work with."""

from skmoecbm._label_table import list_some, read_table
from skmoecbm._repository_names import local_folder
from skmoecbm.exceptions import InputError

__all__ = [
    "add_model_options",
    "encoders_of",
    "fetch_named_model",
    "load_model",
    "make_experts",
    "tell_concepts",
]


def add_model_options(parser):
    """Add the saved model that a command works with, here or on the Hub."""
    parser.add_argument(
        "model", help="folder that 'skmoecbm fit' wrote, or USER/REPO on the Hugging Face Hub"
    )
    parser.add_argument(
        "--revision", help="branch, tag or commit of a model on the Hub (its main branch)"
    )
    parser.set_defaults(model_may_be_on_hub=True)


def fetch_named_model(args):
    """Put the folder of a model on the Hub in the place of its name; a folder here stays."""
    if not getattr(args, "model_may_be_on_hub", False):
        return
    folder = local_folder(args.model)
    if folder is not None:
        if args.revision is not None:
            raise InputError(
                f"--revision is for a model on the Hub, USER/REPO; {args.model!r} is not one. "
                "Leave it out."
            )
        args.model = str(folder)
        return
    _check_paths(args)

    from skmoecbm._hub_access import HubAccess
    from skmoecbm._hub_download import check_repository, fetch_named

    check_repository("skmoecbm", "model", args.model, args.revision)
    args.model = str(fetch_named(args.model, args.revision, HubAccess()))


def _check_paths(args):
    """Let a wrong path of images or of a table be told before a model is fetched for it."""
    from skmoecbm._folder import existing_folder, list_images

    images = getattr(args, "images", None)
    if isinstance(images, list):
        list_images(images)
    elif images is not None:
        existing_folder(images)
    if getattr(args, "labels", None) is not None:
        read_table(args.labels)


def _cache_dir(value):
    return None if value is not None and value.lower() == "none" else value


def _short_name(backbone):
    """Return what stands for a model in columns and on plots when the user gives no name."""
    _, colon, place = backbone.partition(":")
    name = place.rstrip("/").rpartition("/")[2] if colon else backbone.replace("/", "-")
    return name.replace("__", "-")


def make_experts(args, bank):
    """Return the `ExpertUnion` that the options describe."""
    from skmoecbm.encoder import ConceptEncoder, ExpertUnion

    encoders = []
    for expert in args.experts:
        name, sign, backbone = expert.partition("=")
        if not sign:
            name, backbone = _short_name(expert), expert
        encoder = ConceptEncoder(
            backbone,
            bank,
            resize=args.resize,
            cache_dir=_cache_dir(args.cache_dir or "auto"),
            device=args.device or "auto",
            on_error=args.on_error or "raise",
            verbose=1,
        )
        encoders.append((name, encoder))
    return ExpertUnion(encoders)


def tell_concepts(experts, bank):
    """Return how many concepts of the bank each fitted expert uses, in words."""
    told = []
    for name, encoder in experts.experts_:
        n, n_all = encoder.n_concepts_, len(bank)
        dropped = f" ({n_all - n:,} dropped: it does not know them)" if n < n_all else ""
        told.append(f"{name} {n:,} of {n_all:,}{dropped}")
    return f"concepts used: {', '.join(told)}"


def load_model(args):
    """Load a saved model of images, with the settings of this run in place of its own."""
    from sklearn.pipeline import Pipeline

    from skmoecbm.hub import load

    model = load(args.model)
    if not isinstance(model, Pipeline):
        raise InputError(
            f"The model in {args.model!r} is a {type(model).__name__} without an encoder, so it "
            "takes features, not images. Load it with skmoecbm.load and use it from Python."
        )
    encoders = encoders_of(model)
    _refuse_other_inputs(model, args.model, encoders)
    # What encodes is told how; what classifies keeps all its settings but the device.
    wanted = {"cache_dir": args.cache_dir, "on_error": args.on_error, "device": args.device}
    wanted = {name: value for name, value in wanted.items() if value is not None} | {"verbose": 1}
    if "cache_dir" in wanted:
        wanted["cache_dir"] = _cache_dir(wanted["cache_dir"])
    for _, encoder in encoders:
        encoder.set_params(**wanted)
    if args.device is not None:
        model[-1].set_params(device=args.device)
    if args.target_prevalence is not None:
        model[-1].set_params(target_prevalence=args.target_prevalence)
    return model


def encoders_of(model):
    """Return (name, fitted encoder) of each expert of a pipeline that encodes images."""
    from skmoecbm._model_backbones import encoders_of as named_encoders

    return list(named_encoders(model).items())


def _refuse_other_inputs(model, folder, encoders):
    """Raise `InputError` where a model takes a table, records, numbers or texts, not images."""
    from skmoecbm.moe import TokenUnion

    fixed = [c for step in model for c in getattr(step, "columns_", ()) if c is not None]
    columns = [name for one in fixed for name in (one if isinstance(one, list) else [one])]
    unions = [step for step in model if isinstance(step, TokenUnion)]
    streams = [name for union in unions for name, _ in union.streams_]
    if streams:
        what = f"records of {' and '.join(map(repr, streams))}"
    elif columns:
        what = f"a table with columns {list_some(dict.fromkeys(columns))}"
    elif not encoders:
        what = "numbers"
    elif any(encoder.modality != "image" for _, encoder in encoders):
        what = "texts"
    else:
        return
    raise InputError(
        f"The model in {folder!r} takes {what}, not just images. Load it with skmoecbm.load and "
        "use it from Python."
    )
