"""The experts and the saved models that the commands work with."""

from skmoecbm.exceptions import InputError

__all__ = ["encoders_of", "load_model", "make_experts", "tell_concepts"]


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
    # What encodes is told how; what classifies keeps all its settings but the device.
    wanted = {"cache_dir": args.cache_dir, "on_error": args.on_error, "device": args.device}
    wanted = {name: value for name, value in wanted.items() if value is not None} | {"verbose": 1}
    if "cache_dir" in wanted:
        wanted["cache_dir"] = _cache_dir(wanted["cache_dir"])
    for _, encoder in encoders_of(model):
        encoder.set_params(**wanted)
    if args.device is not None:
        model[-1].set_params(device=args.device)
    if args.target_prevalence is not None:
        model[-1].set_params(target_prevalence=args.target_prevalence)
    return model


def encoders_of(model):
    """Return (name, fitted encoder) of each expert of a pipeline."""
    first = model[0]
    return [pair[:2] for pair in getattr(first, "experts_", [(model.steps[0][0], first)])]
