"""What a verdict is made of: counts and sums of both arms. All of it adds up, so it is kept up row by row."""

from typing import Literal

from pydantic import Field as field_of

from pipelines.spec import Frozen

Arm = Literal["champion", "challenger"]


class Rates(Frozen):
    """Requests that the proxy sent to an arm, and how many failed there, whatever a retry made of them."""

    requests: int = 0
    errors: int = 0


class Latencies(Frozen):
    """Milliseconds in the place, as a histogram: bin `b` holds what lies in [RATIO**b, RATIO**(b + 1));
    RATIO and `bin_of` are those of `sequences`."""

    bins: dict[int, int] = field_of(default_factory=dict)


class Moments(Frozen):
    """Numbers by their count, sum and sum of squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0


class Evidence(Frozen):
    """Of one rollout, in its present stage."""

    seconds: float = 0.0
    """How long the stage has lasted."""
    whole_seconds: float = 0.0
    """How long the rollout has lasted."""
    rates: dict[Arm, Rates] = field_of(default_factory=dict)
    """Of this stage."""
    latencies: dict[Arm, Latencies] = field_of(default_factory=dict)
    """Of this stage."""
    disagreement: dict[str, Moments] = field_of(default_factory=dict)
    """By output: |challenger - champion| of each request that both answered, in the whole rollout."""
    shift: dict[str, Moments] = field_of(default_factory=dict)
    """By output: challenger - champion of the same requests."""
    paired: Moments | None = None
    """Of each labelled pair, in the whole rollout: challenger's loss - (1 + allowed) x champion's loss;
    None where nothing is replayed."""
    plain: Moments | None = None
    """Of the same pairs: challenger's loss - champion's loss."""
    losses: dict[Arm, Moments] = field_of(default_factory=dict)
    """Of the labelled pairs; where nothing is replayed, of each arm's own labelled answers."""
    calibration: dict[str, Moments] = field_of(default_factory=dict)
    """By output that must be calibrated: what happened (0 or 1) - the challenger's probability."""


class Least(Frozen):
    """What the stage waits for; 0: that clock may roll back, and is not waited for."""

    fast: int
    """Requests of the challenger; in the shadow pairs."""
    slow: int
    """Labels."""


Word = Literal["PROMOTE", "ROLLBACK", "HOLD"]


class Finding(Frozen):
    """One metric."""

    metric: str
    """`errors`, `latency p95`, `disagreement calories`, `shift calories`, `loss`, `calibration home_win`."""
    clock: Literal["fast", "slow"]
    verdict: Word
    value: float | None
    """The estimate of what `limit` bounds."""
    lower: float | None
    upper: float | None
    limit: float
    unit: str
    """`share` of requests or of events, `relative` to the champion's, or empty: the output's or the loss's own."""
    n: int
    """The challenger's sample."""
    counted: str = ""
    """What a sample is counted in; of HOLD: what `needs` counts."""
    needs: int | None = None
    """Of HOLD: about how many more; None: not to be said, as when it lies just on the limit."""
    seconds: float | None = None
    """Of HOLD: how long that takes about, at the present rate; None: nothing comes."""


class Verdict(Frozen):
    """Over all metrics."""

    verdict: Word
    why: str
    """One sentence with the deciding numbers."""
    findings: tuple[Finding, ...]
    better: bool = False
    """The loss is surely lower than the champion's."""
    same: bool = False
    """The loss is surely within the allowed distance on both sides."""
