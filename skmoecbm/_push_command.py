"""`skmoecbm push`: its options, and the publishing of a saved model as it lies in its folder.

Only argparse is needed for the options; the rest is imported when the command is run. A token is
no option: a command line is seen by other users and kept in the shell's history.
"""

__all__ = ["add_command", "push"]


def add_command(commands):
    """Add the command and its options."""
    parser = commands.add_parser(
        "push",
        help="publish a saved model on the Hugging Face Hub",
        description="Put the files of a saved model into a repository of the Hub, in one commit. "
        "Log in before with 'hf auth login', or set HF_TOKEN.",
    )
    parser.add_argument("model", help="folder that 'skmoecbm fit' wrote")
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
        help="everyone sees it, if it is made now; one that is there stays as it is",
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
    from skmoecbm._model_folder import is_of_a_model, read_config_bytes

    read_config_bytes(args.model)

    from pathlib import Path

    from skmoecbm._hub_download import check_repository
    from skmoecbm._hub_upload import PushOptions, push_files
    from skmoecbm._model_reading import read_model

    check_repository("skmoecbm push", "USER/REPO", args.repository, None)
    options = PushOptions(
        "skmoecbm push",
        private=args.private,
        revision=args.branch,
        tag=args.tag,
        create_pr=args.create_pr,
        commit_message=args.message,
    )
    folder = Path(args.model)
    read_model(folder)  # what cannot be loaded is not published
    files = {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if is_of_a_model(path.name) and path.is_file()
    }
    commit = push_files(files, args.repository, options)
    print(commit.pr_url or commit.commit_url)
    revision = args.tag or commit.oid
    if not args.create_pr:
        print(f"load it: skmoecbm.from_pretrained({args.repository!r}, revision={revision!r})")
