"""What device and verifier agree on: settings of a reply, limits of a call, who the verifier is."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import __version__
from ..lm.draws import SCHEME
from ..lm.sampling import Sampler
from ..lm.targets import LLM, Coupling, Target, sampler_of_parts
from ..lm.vocabulary import Fingerprint, Vocabulary
from .codec import Malformed, OutOfRange, require

VERSION = 3
"""Of the protocol. Version 2 bound a reply to its call; version 3 sends nothing but ids where no
distribution is needed, and half of the hash over what is held."""

_LEVELS = (2, 3)
_MOST_END_IDS = 64


class Limits(BaseModel):
    """What a verifier takes in one call; `/v1/info` publishes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(1 << 20, ge=1024)
    tokens_per_call: int = Field(4096, ge=16)
    drafts_per_call: int = Field(64, ge=1)
    weights_per_call: int = Field(256, ge=1, description="skipped tokens weighed: a row each")
    bonus_per_call: int = Field(64, ge=1)
    wire_top: int = Field(256, ge=1, description="tokens in one Distribution")
    sampler_top_k: int = Field(
        0, ge=0, description="largest top-k of a session's sampler, which must have one; 0: any"
    )


_UNTOLD: list[Any] = [0, False]
"""Values of the last settings, from where on they are left out: mostly they say nothing."""
_COUPLINGS = get_args(Coupling)


class Settings(BaseModel):
    """What stays the same for a whole reply; part of the session.

    `origin` is the index of the reply's first id in the verifier's ids: random numbers count from
    there. `slide`: this text leaves out the oldest turns of the session's last one, and what was
    read after them may be kept; the LLM's rows then still carry what it saw of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: Sampler = Sampler()
    target: Target = LLM
    seed: int = Field(0, ge=0, lt=2**64)
    origin: int = Field(0, ge=0, lt=2**31)
    coupling: Coupling = "none"
    slide: bool = False

    @model_validator(mode="after")
    def _couples_two(self) -> Settings:
        if self.coupling != "none" and self.target != LLM:
            raise ValueError("coupled draws follow the LLM: no ensemble has them")
        return self

    @property
    def parts(self) -> Sampler:
        """How each side makes its distribution from logits."""
        return sampler_of_parts(self.sampler, self.target)

    def check(self, limits: Limits) -> None:
        """Refuse what the verifier's engine cannot tell exactly: it sees the likeliest ids only."""
        most = limits.sampler_top_k
        is_greedy = self.sampler.greedy and self.target == LLM
        require(
            not most or is_greedy or 1 <= self.sampler.top_k <= most,
            OutOfRange,
            f"this verifier's engine tells {most} ids of a position: set top_k from 1 to {most}",
        )

    def pack(self) -> list[Any]:
        """Positional: half the bytes of the names."""
        s = self.sampler
        later = [_COUPLINGS.index(self.coupling), self.slide]
        while later and later[-1] == _UNTOLD[len(later) - 1]:
            later.pop()
        target = None if self.target == LLM else self.target.model_dump()
        return [
            _small(s.temperature), s.top_k, _small(s.top_p), _small(s.min_p), target, self.seed,
            self.origin, *later,
        ]  # fmt: skip

    @staticmethod
    def unpack(value: Any) -> Settings:
        """From the packed list, or from JSON names.

        Raises:
            OutOfRange: a value is not allowed.
        """
        try:
            if isinstance(value, dict):
                return Settings.model_validate(value)
            temperature, top_k, top_p, min_p, target, seed, origin, *rest = value
            coupling, slide = list(rest) + _UNTOLD[len(rest) :]
            names = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
            return Settings.model_validate(
                {
                    "sampler": names,
                    "target": target or LLM,
                    "seed": seed,
                    "origin": origin,
                    "coupling": dict(enumerate(_COUPLINGS)).get(coupling, coupling),
                    "slide": slide,
                }
            )
        except (ValidationError, TypeError, ValueError) as error:
            raise OutOfRange(f"settings: {first_line(error)}") from None


class Info(BaseModel):
    """What a verifier says about itself (`GET /v1/info`): what a device needs before it asks."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field(max_length=200)
    fingerprint: Fingerprint
    template: str | None = None
    bos: str = ""
    eos: str = ""
    end_ids: frozenset[int]
    n_ctx: int = Field(ge=1)
    limits: Limits
    random: str = SCHEME
    level: int = Field(3, description="3: exact, the cache follows the session; 2: exact without")
    protocol: int = VERSION
    version: str = __version__

    @staticmethod
    def parse(body: bytes | str) -> Info:
        """What a verifier said, if this side can work with it. It is not trusted.

        Raises:
            Malformed: it is no verifier's, of another version or level, or makes no sense.
        """
        try:
            info = Info.model_validate_json(body)
        except ValidationError:
            raise Malformed("is no verifier; is the URL right?") from None
        require(
            info.protocol == VERSION,
            Malformed,
            f"speaks version {info.protocol} of the protocol, not {VERSION}; update one side",
        )
        require(
            info.level in _LEVELS,
            Malformed,
            f"is of level {info.level}, which this program does not know how to ask; update it",
        )
        # Each end id cuts a reply short: a verifier that names many ends every text at once.
        n_end, n_vocab = len(info.end_ids), info.fingerprint[0]
        require(
            n_end <= _MOST_END_IDS and 2 * n_end <= n_vocab,
            Malformed,
            f"names {n_end} end-of-text ids of {n_vocab}",
        )
        return info

    @staticmethod
    def of(model: str, vocab: Vocabulary, n_ctx: int, limits: Limits) -> Info:
        """What a verifier that runs this model says."""
        return Info(
            model=model,
            fingerprint=vocab.fingerprint,
            template=vocab.template,
            bos=vocab.bos,
            eos=vocab.eos,
            end_ids=vocab.end_ids,
            n_ctx=n_ctx,
            limits=limits,
        )


def _small(value: float) -> float | int | str:
    """A whole number, or decimals as text where that takes less than a float's nine bytes."""
    whole, text = int(value), str(value)
    return whole if value == whole else text if len(text) < 8 else value


def first_line(error: Exception) -> str:
    """The gist of an exception, for a message."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
