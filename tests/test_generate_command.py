"""`skmoecbm concepts generate`, against the doubles of `tests/llm_server.py`."""

import json
import subprocess
import sys

import pytest

from skmoecbm import ConceptBank
from skmoecbm.cli import main
from skmoecbm.concepts import generate_concepts
from tests.llm_server import Status, serve

GOOD = json.dumps({"phrases": ["Blue-white veil.", "dark"]})
ASKED = ["concepts", "generate", "--classes", "mel=melanoma", "nv", "--domain", "skin lesions"]


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", ["openai", "ollama"])
def test_a_bank_is_written_beside_every_answer(kind, tmp_path, capsys):
    out = tmp_path / "new" / "bank.json"
    with serve([GOOD]) as server:
        where = ["--ollama"] if kind == "ollama" else []
        where += ["--base-url", server.url + ("" if where else "/v1")]
        options = ["--facets", "color", "--repeats", "2", "--model", "m", "--out", str(out)]
        assert main([*ASKED, *options, *where, "--prices", "1", "5"]) == 0
        assert len(server.requests) == 4
        assert main([*ASKED, *options, *where]) == 0  # from the answers that are kept
        assert len(server.requests) == 4
    bank = ConceptBank.from_json(out)
    assert bank.class_keys == ["mel", "nv"] and bank.classes[0].name == "melanoma"
    assert bank.texts == ["blue-white veil", "dark"]
    assert len((tmp_path / "new" / "bank.answers.jsonl").read_text().splitlines()) == 4
    told = capsys.readouterr().out
    assert "2 concepts, 2 classes" in told and "400 tokens of prompts" in told
    assert "cost 0.0008" in told and "read them before you use them" in told


def test_a_dry_run_prints_the_prompts_and_needs_no_model(capsys):
    assert main([*ASKED, "--technical", "--dry-run"]) == 0
    printed = capsys.readouterr()
    prompts = generate_concepts(
        {"mel": "melanoma", "nv": "nv"}, domain="skin lesions", technical=True, dry_run=True
    )
    assert all(prompt in printed.out for prompt in prompts)
    assert "8 prompts, each asked 5 times" in printed.err


def test_the_classes_may_be_those_of_a_bank(capsys):
    options = ["concepts", "generate", "--bank", "lesions", "--domain", "d", "--dry-run"]
    assert main(options) == 0
    assert "Class: melanoma" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Give --model"),
        (["--model", "m"], "Give --out"),
        (["--model", "m", "--out", "."], "--out '.' is a folder"),
        (["--model", "m", "--out", "x.json", "--base-url", "host"], "'base_url' parameter"),
        (["--model", "m", "--out", "x.json"], "Set OPENAI_API_KEY"),
        (["--dry-run", "--repeats", "0"], "'n_repeats' parameter"),
        (["--dry-run", "--classes", "a", "a=b"], "--classes must be keys that differ"),
    ],
)
def test_a_mistake_is_one_sentence(options, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*ASKED, *options]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refused_request_is_one_sentence(tmp_path, capsys):
    with serve([Status(401, "no such key")]) as server:
        options = [
            "--model",
            "m",
            "--out",
            str(tmp_path / "b.json"),
            "--base-url",
            server.url + "/v1",
        ]
        assert main([*ASKED, *options]) == 2
    assert "no such key. Check OPENAI_API_KEY" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_help_loads_neither_torch_nor_a_client():
    code = (
        "import sys\nfrom skmoecbm.cli import main\n"
        "try:\n    main(['concepts', 'generate', '--help'])\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'openai', 'ollama'} & set(sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "--dry-run" in child.stdout
