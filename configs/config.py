"""What can be configured, in sections; frozen, and unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ..cloud.options import VerifierOptions
from ..lm.engines.options import EngineOptions
from ..lm.ids import Slide
from ..lm.sampling import Sampler
from ..lm.targets import Coupling

StrategyName = Literal[
    "local", "cloud", "hlm", "uhlm", "rand", "spec", "reward", "ensemble", "handoff"
]
AskBy = Literal["uncertainty", "head"]
Threshold = float | Literal["averse", "prone", "risk", "adaptive"]


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        fits = False
    if not fits:
        raise ValueError("not a verifier URL: write https://host:8787")
    return url


Url = Annotated[str, AfterValidator(_checked_url)]


def _listed(value: Any) -> Any:
    """One value, or several with commas, as a variable or a file has them."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float | Path) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Shares = Annotated[tuple[Share, ...], Field(min_length=1), BeforeValidator(_listed)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SparingOptions(_Section):
    """When the device is short of charge or hot, and what then. Nothing set: never."""

    charge: float | None = Field(
        None, gt=0.0, le=100.0, description="percent of a battery that discharges, below which"
    )
    celsius: float | None = Field(None, gt=0.0, le=150.0, description="degrees from which")
    throttled: bool = Field(False, description="also while the firmware slows the device down")
    threshold: float | None = Field(
        None, ge=0.0, le=1.0, description="of u meanwhile; unset: no uploads at all"
    )


class DeviceOptions(_Section):
    """The model on the device."""

    model: str = Field("demo-slm", description="GGUF file, or the name of a shipped model")
    runtime: Literal["llama", "onnx"] = Field("llama", description="what runs the model")
    wire_top: int = Field(64, ge=1, le=256, description="most tokens in a distribution")
    prompt_cache_mb: int = Field(
        0, ge=0, le=1 << 20, description="disk for what was read, for the next start; 0: none"
    )
    slide: Slide = Field(
        "device", description="who keeps what was read when oldest turns go: none, device, both"
    )
    engine: EngineOptions = EngineOptions()
    sparing: SparingOptions = SparingOptions()


class StrategyOptions(_Section):
    """When to ask the cloud."""

    name: StrategyName = "uhlm"
    threshold: Threshold | None = Field(
        None, description="of u: a number, averse, prone, risk, adaptive; unset: risk, else 0.073"
    )
    ask_by: AskBy = Field(
        "uncertainty", description="what the threshold is of: u, or the rejection the head expects"
    )
    target_risk: float = Field(0.001, gt=0.0, lt=1.0, description="of adaptive, per token")
    calibration: str | None = Field(None, description="where thresholds come from: name or file")
    rate: float = Field(0.1, ge=0.0, le=1.0, description="share of uploads of `rand`")
    estimator: Literal["sampled", "expected"] = "sampled"
    samples: int = Field(20, ge=1, le=256, description="perturbed samples per draft")
    measure: bool = Field(False, description="u also where the strategy does not ask for it")
    draft_limit: Annotated[int, Field(ge=1, le=64)] | Literal["auto"] = Field(
        "auto", description="drafts in one upload of spec and ensemble"
    )
    window: int = Field(24, ge=1, le=1024, description="tokens that handoff drafts unseen")
    partner: Names = Field((), description="further models on this device: no verifier")
    ensemble: Literal["weighted", "contrastive"] = "weighted"
    weight: Shares = Field(
        (0.5,), description="in a weighted ensemble: of the device, then of each partner"
    )
    mu: float = Field(0.1, ge=0.0, le=10.0, description="of a contrastive ensemble")
    alpha: float = Field(0.1, ge=0.0, le=1.0, description="of its mask: share of the LLM's peak")
    coupling: Coupling = Field("none", description="draws of device and LLM: none, gumbel")
    pipelined: Literal["auto", "on", "off"] = "auto"
    slope: float | None = Field(None, description="a of the fit beta = a u + b, for averse, prone")
    intercept: float | None = Field(None, description="b of the fit")
    delta: float | None = Field(None, ge=0.0, le=1.0, description="P(p(d) < q(d)), for prone")

    @property
    def asks(self) -> AskBy | None:
        """What a threshold is compared with; None: the strategy has none."""
        if self.name == "reward":
            return "head"
        return self.ask_by if self.name in ("uhlm", "spec") else None

    @property
    def score(self) -> str | None:
        """What the threshold is of, as `asks`; of `handoff` over a window of tokens. A threshold of
        one score means nothing for another."""
        return f"{self.ask_by} over a window" if self.name == "handoff" else self.asks

    @property
    def threshold_of(self) -> str:
        """The same; of a strategy that has no threshold, what one that is given would be of."""
        return self.score or self.ask_by


class CloudOptions(_Section):
    """Where the verifier is, as the device sees it."""

    url: Url | None = Field(None, description="of the verifier; unset: none, or the demo's own")
    kind: Literal["auto", "verifier", "openai"] = Field(
        "auto", description="what the url is; auto: openai for strategy handoff, else verifier"
    )
    model: str | None = Field(None, description="of an openai url; unset: the one that it lists")
    demo: bool = Field(False, description="start a verifier on this machine if no url is set")
    key_file: Path | None = Field(None, description="file with the API key; or UHLM_API_KEY")
    ca_file: Path | None = Field(None, description="certificates to trust instead of the system's")
    deadline: float = Field(10.0, gt=0.0, le=600.0, description="seconds for a whole call")
    connect_timeout: float = Field(2.0, gt=0.0, le=600.0)
    offline: bool = False
    require: bool = Field(False, description="fail if the verifier cannot be reached")


class Caps(_Section):
    """The most that may be spent in some span; unset: no cap."""

    uploads: int | None = Field(None, ge=0, description="calls to the verifier")
    bytes: int | None = Field(None, ge=0, description="of their bodies")
    tokens: int | None = Field(None, ge=0, description="that the LLM reads or writes")
    money: float | None = Field(None, ge=0.0, description="in the currency of the prices")


class BudgetOptions(_Section):
    """What the cloud may cost. At a cap the text goes on locally."""

    reply: Caps = Caps()
    session: Caps = Caps()
    day: Caps = Caps()
    price_per_call: float = Field(0.0, ge=0.0)
    price_per_million_tokens: float = Field(0.0, ge=0.0)


class ChatOptions(_Section):
    """A conversation."""

    system: str = Field("", description="system message")
    max_tokens: int = Field(1024, ge=1, description="most tokens of a reply")
    history: bool = Field(True, description="remember what is typed, in the user's state folder")
    seed: int | None = Field(None, ge=0, lt=2**64, description="unset: another one each time")


class ServeOptions(_Section):
    """The server on the device, for programs and for the web page."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535, description="0: any free one")
    key_file: Path | None = Field(None, description="file with API keys; or UHLM_SERVE_KEY")
    queue: int = Field(16, ge=0, le=1024, description="requests that may wait")
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class Config(_Section):
    """Everything."""

    device: DeviceOptions = DeviceOptions()
    sampler: Sampler = Sampler()
    strategy: StrategyOptions = StrategyOptions()
    cloud: CloudOptions = CloudOptions()
    budget: BudgetOptions = BudgetOptions()
    verifier: VerifierOptions = VerifierOptions()
    chat: ChatOptions = ChatOptions()
    serve: ServeOptions = ServeOptions()
