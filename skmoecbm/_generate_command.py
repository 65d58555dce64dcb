"""`skmoecbm concepts generate`: its options, and what it does.

Only argparse is needed for the options; the rest is imported when the command is run.
"""

import sys
from pathlib import Path

from skmoecbm._outputs import output_path
from skmoecbm.exceptions import InputError

__all__ = ["add_options", "generate"]


def add_options(parser):
    """Add the options of the command to its parser."""
    classes = parser.add_mutually_exclusive_group(required=True)
    classes.add_argument(
        "--classes", nargs="+", metavar="KEY[=NAME]", help="the classes: nv, or mel=melanoma"
    )
    classes.add_argument("--bank", help="take the classes of this bank: a name, or a JSON file")
    parser.add_argument(
        "--domain", required=True, help="what the images are: 'dermoscopic images of skin lesions'"
    )
    parser.add_argument("--facets", nargs="+", help="what to ask about (appearance color ...)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="how often each question is asked (%(default)s)"
    )
    parser.add_argument(
        "--technical", action="store_true", help="ask for the terms of specialists, not plain words"
    )
    parser.add_argument("--model", help="the language model, as its endpoint calls it")
    parser.add_argument("--ollama", action="store_true", help="the model is one of Ollama's")
    parser.add_argument(
        "--base-url",
        help="where the OpenAI-compatible endpoint or Ollama is; a key is read from OPENAI_API_KEY",
    )
    parser.add_argument("--temperature", type=float, help="variety of the answers")
    parser.add_argument(
        "--prices",
        nargs=2,
        type=float,
        metavar=("PROMPTS", "ANSWERS"),
        help="price of a million tokens of each, to tell the cost",
    )
    parser.add_argument("--out", help="JSON file to write the bank to")
    parser.add_argument(
        "--checkpoint",
        help="file that keeps each answer as it comes, and from which the same command goes on; "
        "default: beside --out",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the prompts and ask nobody anything"
    )
    parser.set_defaults(run="skmoecbm._generate_command:generate")


def generate(args):
    """Ask a language model for concepts and write them as a bank."""
    for name in ("model", "out"):
        if not getattr(args, name) and not args.dry_run:
            raise InputError(f"Give --{name}, or --dry-run to see the prompts.")
    out = None if args.dry_run else output_path(args.out)
    from skmoecbm.concepts import OllamaClient, OpenAIClient, as_bank, generate_concepts

    asked = {"domain": args.domain, "n_repeats": args.repeats, "technical": args.technical}
    if args.facets:
        asked["facets"] = args.facets
    classes = as_bank(args.bank) if args.bank else _classes(args.classes)
    if args.dry_run:
        prompts = generate_concepts(classes, **asked, dry_run=True)
        print(f"\n\n{'-' * 80}\n".join(prompts))
        print(f"{len(prompts)} prompts, each asked {args.repeats} times", file=sys.stderr)
        return
    if args.ollama:
        client = OllamaClient(args.model, host=args.base_url, temperature=args.temperature)
    else:
        client = OpenAIClient(args.model, base_url=args.base_url, temperature=args.temperature)
    checkpoint = Path(args.checkpoint) if args.checkpoint else out.with_suffix(".answers.jsonl")
    made = generate_concepts(
        classes, **asked, client=client, checkpoint=checkpoint, prices=args.prices, verbose=1
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    made.bank.to_json(out)
    usage = made.usage
    cost = "" if usage.cost is None else f", cost {usage.cost:.4g}"
    print(
        f"{out}: {len(made.bank)} concepts, {len(made.bank.classes)} classes\n"
        f"{usage.requests} requests, {usage.prompt_tokens} tokens of prompts, "
        f"{usage.completion_tokens} of answers{cost}; every answer is in {checkpoint}\n"
        "A language model wrote these phrases: read them before you use them."
    )


def _classes(given):
    pairs = [text.partition("=") for text in given]
    classes = {key: name if sign else key for key, sign, name in pairs}
    if len(classes) < len(pairs):
        raise InputError("--classes must be keys that differ.")
    return classes
