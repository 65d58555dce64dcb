"""Answers of a language model, each written to a file as soon as it is there."""

import hashlib
import json
import os
import warnings
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from skmoecbm.exceptions import FormatError, InputError, SkmoecbmWarning

__all__ = ["Answer", "Checkpoint", "request_key"]


class Answer(BaseModel):
    """What came of one question; immutable.

    Attributes
    ----------
    key : str
        Hash of the prompt, the form asked for, the model with its settings, and the repeat.
    subject : tuple of str
        What was asked about: class and facet.
    repeat : int
        From 0.
    value : dict or None
        The answer that was read; None where there is none that can be used.
    reason : str or None
        Why there is none.
    texts : tuple of str
        Every answer word for word, the last one last.
    requests : int
        How often the endpoint was asked, tries that failed with it.
    prompt_tokens, completion_tokens : int
        As the endpoint counts them.
    uncounted : int
        Answers whose tokens it did not count.
    response_format : str
        How the form was asked for: "json_schema", "json_object" or "text".
    date : str
        When it came, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    subject: tuple[str, ...]
    repeat: int
    value: dict | None
    reason: str | None
    texts: tuple[str, ...]
    requests: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int
    response_format: str
    date: str


def request_key(prompt, schema, settings, repeat):
    """Return the hash that says whether an answer belongs to a question."""
    asked = json.dumps([prompt, schema, settings, repeat], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


class Checkpoint:
    """A file of answers, one JSON object a line; `path=None` keeps nothing.

    A line is written whole and flushed to the disk before the next question is asked, so a killed
    process loses the answer it waits for and no other.
    """

    def __init__(self, path):
        self.path = None if path is None else Path(path)

    def read(self, keys, answer_model):
        """Return the answers with one of these keys, a list; mend a last line that is torn.

        Raises
        ------
        InputError
            If the file cannot be read or mended.
        FormatError
            If another line is not an answer.
        """
        if self.path is None:
            return []
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._unusable(error) from error
        whole, _, torn = content.rpartition(b"\n")
        answers = []
        for number, line in enumerate(whole.split(b"\n") if whole else [], start=1):
            try:
                answer = Answer.model_validate_json(line)
                if answer.key in keys:
                    if answer.reason is None:
                        answer_model.model_validate(answer.value)
                    answers.append(answer)
            except ValidationError as error:
                raise FormatError(
                    f"'{self.path}' line {number} is not an answer that skmoecbm wrote. Give "
                    "another checkpoint, or remove the line."
                ) from error
        if torn:
            # Only now: a file that is no checkpoint at all must not be cut.
            if not b'{"key":'.startswith(content[:7]):
                raise FormatError(
                    f"'{self.path}' is not a file of answers. Give another checkpoint."
                )
            self._cut(len(content) - len(torn))
            warnings.warn(
                f"The last line of '{self.path}' was torn, as by a process that was killed; it was "
                "dropped, and its question is asked again.",
                SkmoecbmWarning,
                stacklevel=2,
            )
        return answers

    def append(self, answer):
        """Write one answer.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        if self.path is None:
            return
        line = answer.model_dump_json().encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                file.write(line)
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unusable(error) from error

    def _cut(self, length):
        try:
            os.truncate(self.path, length)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error):
        return InputError(
            f"The checkpoint '{self.path}' cannot be used: {error.strerror or error}. "
            "Give another path."
        )
