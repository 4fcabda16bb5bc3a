"""`python -m tests.fuzz [-runs=N | -max_total_time=SECONDS]`: whatever bytes come, the decoder refuses or answers.

Coverage-guided (libFuzzer): any exception that is no Refused is a finding, and so is a row that is read
differently alone and in a batch. A finding is written to a file; `python -m tests.fuzz FILE` repeats it.
"""

import sys

import atheris

with atheris.instrument_imports(include=["pipelines.serving.contract"]):
    from pipelines.serving.contract import Code, Contract, Refused, Rows

from pipelines.use_cases.bets import USE_CASE as BETS
from pipelines.use_cases.calories import USE_CASE as CALORIES

CONTRACTS = (Contract(CALORIES), Contract(BETS))
SIZE = 4096


def one(data: bytes) -> None:
    """First byte: whose contract; the rest: the body, given to every route."""
    contract, body = CONTRACTS[data[0] % len(CONTRACTS)] if data else CONTRACTS[0], data[1:]
    alone = _answer(lambda: contract.predict(body))
    _answer(lambda: contract.labels(body))
    _answer(lambda: contract.batch(body))
    both = _answer(lambda: contract.batch(b'{"rows": [' + body + b"]}"))
    if isinstance(alone, Rows) and not isinstance(both, Refused):
        rows = both[0]  # type: ignore[index]
        assert (rows.cells, rows.keys, rows.client_ids, rows.event_times) == (
            alone.cells, alone.keys, alone.client_ids, alone.event_times,
        ), body  # fmt: skip


def _answer(decode: object) -> object:
    try:
        return decode()  # type: ignore[operator]
    except Refused as why:
        assert isinstance(why.code, Code) and why.code.status < 500
        return why


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], f"-max_len={SIZE}", *sys.argv[1:]], one)
    atheris.Fuzz()
