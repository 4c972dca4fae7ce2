"""What requests hold, and work for the model made of it. Whatever is wrong with one is said in one line."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from squeezebert_fast.errors import counted
from squeezebert_fast.serving.options import ServingOptions
from squeezebert_fast.serving.refusals import Refused
from squeezebert_fast.serving.work import Offer, Work, texts_of
from squeezebert_fast.tables.rows import Record

JSON_TYPES = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
JSON_TYPES |= {float: "a number", type(None): "null"}


class Body(BaseModel):
    """A request's body. Names that mean nothing are errors: a misspelt option must not pass for the default."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


def _no_tokens(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """`handler` of a string or a list of strings; the error of a union would name both."""
    if isinstance(value, list) and value and isinstance(value[0], (int, list)):
        raise ValueError("input holds token ids; this model takes texts alone")
    if not isinstance(value, (str, list)):
        raise ValueError(f"input is {JSON_TYPES[type(value)]}, expected a string or a list of strings")
    return handler(value)


class EmbeddingsBody(Body):
    """As OpenAI's: https://platform.openai.com/docs/api-reference/embeddings/create."""

    input: Annotated[
        str | list[str], WrapValidator(_no_tokens), Field(description="A text, or a list of texts.")
    ]
    model: str | None = Field(None, description="The model that this server has, or nothing.")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="The length of the model's vectors, or nothing.")
    user: str | None = Field(None, description="Ignored.")

    def work(self) -> Work:
        texts = [self.input] if isinstance(self.input, str) else self.input
        _some(texts, "input")
        return Work(tuple(map(Record, texts)))


class TextsBody(Body):
    """One text, or several."""

    text: str | None = None
    texts: list[str] | None = None
    model: str | None = Field(None, description="The model that this server has, or nothing.")

    def given(self, *names: str) -> str:
        """The one of these fields that is given. Raises Refused for none and for several."""
        found = [name for name in names if getattr(self, name) is not None]
        if len(found) != 1:
            said = " and ".join(found) or "no texts"
            raise Refused(400, f"the request holds {said}, expected one of {', '.join(names)}")
        return found[0]


class PredictBody(TextsBody):
    """Texts, or pairs of texts: for question answering of a question and its context."""

    pairs: list[tuple[str, str]] | None = Field(
        None, description="Pairs of texts; for question answering of a question and its context."
    )
    choices: list[list[str]] | None = Field(
        None, description="For multiple choice: the choices of each text."
    )

    def work(self, offer: Offer) -> Work:
        """The request's texts. Raises Refused for those of another kind than the model takes."""
        if self.given("text", "texts", "pairs") == "pairs":
            assert self.pairs is not None
            _some(self.pairs, "pairs")
            if offer.pairs == "no":
                raise Refused(400, f"{offer.name} takes texts, not pairs", param="pairs")
            return Work(tuple(Record(text, pair) for text, pair in self.pairs))
        texts = self.texts if self.text is None else [self.text]
        assert texts is not None
        _some(texts, "texts")
        if offer.pairs == "must":
            columns = " and its ".join(offer.columns)
            raise Refused(400, f"{offer.name} takes pairs, each a {columns}", param="pairs")
        return Work(
            tuple(
                Record(text, choices=each)
                for text, each in zip(texts, self._choices(offer, len(texts)), strict=True)
            )
        )

    def _choices(self, offer: Offer, texts: int) -> list[tuple[str, ...]]:
        if not offer.choices and self.choices is not None:
            raise Refused(400, f"{offer.name} takes no choices", param="choices")
        if not offer.choices:
            return [()] * texts
        given = self.choices or []
        if len(given) != texts or any(len(each) != offer.choices for each in given):
            said = f"{counted(offer.choices, 'choice')} for each text"
            raise Refused(400, f"{offer.name} takes {said}, as many lists as texts", param="choices")
        return [tuple(each) for each in given]


class FillMaskBody(TextsBody):
    """Texts with masks."""

    top_k: int = Field(5, ge=1, description="Tokens to give for each mask, the best first.")

    def work(self) -> Work:
        self.given("text", "texts")
        texts = self.texts if self.text is None else [self.text]
        assert texts is not None
        _some(texts, "texts")
        return Work(tuple(map(Record, texts)), self.top_k)


AnyBody = TypeVar("AnyBody", bound=Body)


def parsed(kind: type[AnyBody], data: bytes) -> AnyBody:
    """The body in `data`. Raises Refused, 400, that says what is wrong with it."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise _refusal(error) from None


def check_size(work: Work, options: ServingOptions) -> Work:
    """The work. Raises Refused, 400, for more texts than a request may hold, and for one that is too long."""
    count, most = len(work.records), options.max_texts
    if count > most:
        raise Refused(400, f"the request holds {counted(count, 'text')}, expected at most {most:,}")
    for number, record in enumerate(work.records, 1):
        longest = max(map(len, texts_of(record)))
        if longest > options.max_characters:
            raise Refused(
                400,
                f"text {number} has {longest:,} characters, expected at most {options.max_characters:,}",
                code="text_too_long",
            )
    return work


def _some(texts: list[Any], param: str) -> None:
    if not texts:
        raise Refused(400, f"{param} is an empty list, expected at least one text", param=param)


def _refusal(error: ValidationError) -> Refused:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    found = max(errors, key=lambda each: len(each["loc"]))  # of a union, the kind that got furthest
    place = ".".join(str(part) for part in found["loc"] if "[" not in str(part) and part != "str")
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "json_invalid":
        return Refused(400, f"the body is {message[0].lower()}{message[1:]}", code="json_invalid")
    if found["type"] == "model_type":
        return Refused(400, "the body isn't a JSON object")
    if found["type"] == "extra_forbidden":
        return Refused(400, f"{place} is no part of this request", param=place)
    return Refused(400, message if message.startswith(place) else f"{place}: {message}", param=place)
