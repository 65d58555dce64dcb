"""Reading what a language model answered: thoughts, fences, prose, and JSON of several dialects."""

import ast
import json
import re
import warnings

from pydantic import BaseModel, ConfigDict, ValidationError

from skmoecbm.concepts._parsing import sentences

__all__ = ["AnswerError", "AnswerModel", "read_answer", "without_thoughts"]

LONGEST = 200_000  # characters; what is longer is a model that ran on


class AnswerError(ValueError):
    """An answer is not what was asked for; the message can be told to the model."""


class AnswerModel(BaseModel):
    """What a language model must answer; its JSON schema goes out with the request."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def without_thoughts(text):
    """Return the answer behind the thinking that models such as deepseek-r1 write before it.

    Their chat template may open the thought itself, so that only `</think>` is in the text.

    Raises
    ------
    AnswerError
        If the thought never ends.
    """
    answer = text.rpartition("</think>")[2]
    if "<think>" in answer:
        raise AnswerError("The answer ended while the model was still thinking.")
    return answer.strip()


def read_answer(text, model):
    """Return the one object of `model` that a text holds.

    Rules, in this order: thinking is cut off; of fenced code only the code counts; every JSON
    object in the text is tried, whatever prose is around it; where there is none, the text from the
    first brace to the last is read as a Python literal, which forgives single quotes and a comma
    after the last element. Nothing else is mended: a text that is cut off stays an error.

    Parameters
    ----------
    text : str
    model : subclass of AnswerModel

    Raises
    ------
    AnswerError
        If no object fits the model, or several that differ do.
    """
    text = without_thoughts(text)
    if not text:
        raise AnswerError("The answer is empty.")
    if len(text) > LONGEST:
        raise AnswerError(f"The answer has {len(text)} characters; it must be far shorter.")
    fenced = re.findall(r"```[ \t]*\w*[ \t]*\n(.*?)```", text, flags=re.DOTALL)
    if fenced:
        text = "\n".join(fenced)
    found = _objects(text) or _python_literal(text)
    if not found:
        raise AnswerError("There is no complete JSON object in the answer.")
    good, finding = [], None
    for one in found:
        try:
            value = model.model_validate(one)
        except ValidationError as error:
            finding = finding or sentences(error)
        else:
            good += [value] if value not in good else []
    if not good:
        raise AnswerError(f"The JSON object is not as asked: {finding}")
    if len(good) > 1:
        raise AnswerError("There are several JSON objects in the answer; give one.")
    return good[0]


def _objects(text):
    """Return the outermost JSON objects in a text, in their order."""
    decoder, found, place = json.JSONDecoder(), [], text.find("{")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            break  # what is inside a broken object must not pass for the answer
        found.append(value)
        place = text.find("{", end)
    return found


def _python_literal(text):
    start, end = text.find("{"), text.rfind("}")
    if not 0 <= start < end:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            value = ast.literal_eval(text[start : end + 1])
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return []
    return [value] if isinstance(value, dict) else []
