"""`skmoecbm push`: its options, and the publishing of a saved model as it lies in its folder.

Only argparse is needed for the options; the rest is imported when the command is run. A token is
no option: a command line is seen by other users and kept in the shell's history.
"""

from skmoecbm._repository_names import is_repository, name_in
from skmoecbm.exceptions import InputError

__all__ = ["add_command", "push"]


def add_command(commands):
    """Add the command and its options."""
    parser = commands.add_parser(
        "push",
        help="publish a saved model on the Hugging Face Hub",
        description="Put the files of a saved model into a repository of the Hub, in one commit. "
        "Log in before with 'hf auth login', or set HF_TOKEN.",
    )
    parser.add_argument("model", help="folder that 'skmoecbm fit' or save wrote")
    parser.add_argument("repository", metavar="USER/REPO", help="made if it is not there")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument(
        "--private",
        action="store_const",
        const=True,
        help="only its owners see it: so is every new one; a public one is refused",
    )
    seen.add_argument(
        "--public",
        dest="private",
        action="store_const",
        const=False,
        help="everyone sees it, if it is made now; a private one that is there is refused",
    )
    parser.add_argument("--tag", help="name of this version, such as v1, to load it by")
    parser.add_argument("--branch", help="branch to commit to (main), made if it is not there")
    parser.add_argument(
        "--create-pr", action="store_true", help="open a pull request, change nothing"
    )
    parser.add_argument("--message", help="of the commit")
    parser.set_defaults(run="skmoecbm._push_command:push")


def push(args):
    """Publish a saved model."""
    from pathlib import Path

    from skmoecbm._hub_errors import refuse_offline
    from skmoecbm._model_folder import CARD, is_of_a_model, read_config_bytes

    _check_name(args.repository)
    folder = Path(args.model).expanduser()
    read_config_bytes(folder)
    refuse_offline(f"Could not push to {args.repository!r}")

    from skmoecbm._hub_download import check_repository
    from skmoecbm._hub_upload import PushOptions, push_files
    from skmoecbm._model_reading import read_model
    from skmoecbm.card import with_repository

    check_repository("skmoecbm push", "USER/REPO", args.repository, None)
    options = PushOptions(
        "skmoecbm push",
        private=args.private,
        revision=args.branch,
        tag=args.tag,
        create_pr=args.create_pr,
        commit_message=args.message,
    )
    read_model(folder)  # what cannot be loaded is not published
    files = {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if is_of_a_model(path.name) and path.is_file()
    }
    if CARD in files:  # a visitor has no folder to load
        text = files[CARD].decode("utf-8", "surrogateescape")
        text = with_repository(text, args.repository, args.tag)
        files[CARD] = text.encode("utf-8", "surrogateescape")
    commit, is_private = push_files(files, args.repository, options)
    seen_by = "private" if is_private else "public"
    print(f"{commit.pr_url or commit.commit_url} ({seen_by})")
    revision = args.tag or commit.oid
    if not args.create_pr:
        print(f"load it: skmoecbm.from_pretrained({args.repository!r}, revision={revision!r})")


def _check_name(repository):
    """Raise `InputError` unless it has the form of "user/repo"; the rest is for who has torch."""
    if not is_repository(repository):
        name = name_in(repository)
        give = "." if name is None else f"; give {name!r}."
        raise InputError(
            f"USER/REPO must be the name of a Hub repository, 'user/repo'. Got {repository!r} "
            f"instead{give}"
        )
