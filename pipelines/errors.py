"""What can go wrong. The class decides whether a repeat can help.

TouchlineError
├── Final                   a repeat gives the same answer (exit code 1, no retry)
│   ├── BadSettings         a setting is wrong; the message names it
│   ├── BadUseCase          a use case's file cannot be loaded or contradicts itself
│   ├── UnknownUseCase      no use case has that name
│   ├── OriginMismatch      simulated and real rows would mix in one home
│   ├── NotEnoughData       too few rows for what was asked
│   ├── ConservationBroken  rows went missing or were counted twice (law L1)
│   ├── GateRefused         the candidate is not good enough; the verdict is in the evidence
│   ├── Unrecorded          the log does not hold what was asked for
│   ├── CheckFailed         the built bento does not answer like the offline model
│   ├── BadRelease          a release's files are missing or do not match their digest
│   └── CannotStart         the machine lacks something; found before anything was started
└── Passing                 a repeat may help (exit code 75, retried)
    ├── ServiceAway         a service did not answer
    ├── Busy                another run of the same flow holds the lock
    ├── JudgedAnew          other runs judged the same batch meanwhile; what was judged before is gone
    └── NoRoom              the disk is full; what was begun is finished when there is room
"""


class TouchlineError(Exception):
    """Base of every error that the platform raises on purpose."""


class Final(TouchlineError):
    """A repeat gives the same answer."""


class BadSettings(Final):
    """A setting is wrong; the message names it."""


class BadUseCase(Final):
    """A use case's file cannot be loaded or contradicts itself."""


class UnknownUseCase(Final):
    """No use case has that name."""


class OriginMismatch(Final):
    """Simulated and real rows would mix in one home."""


class NotEnoughData(Final):
    """Too few rows for what was asked."""


class ConservationBroken(Final):
    """Rows went missing or were counted twice."""


class GateRefused(Final):
    """The candidate is not good enough."""


class Unrecorded(Final):
    """The log does not hold what was asked for."""


class CheckFailed(Final):
    """The built bento does not answer like the offline model."""


class BadRelease(Final):
    """A release's files are missing or do not match their digest."""


class CannotStart(Final):
    """The machine lacks something that the start needs."""


class Passing(TouchlineError):
    """A repeat may help."""


class ServiceAway(Passing):
    """A service did not answer."""


class Busy(Passing):
    """Another run of the same flow holds the lock."""


class JudgedAnew(Passing):
    """Other runs judged the same batch meanwhile."""


class NoRoom(Passing):
    """The disk is full."""
