"""The quick live cells of the chaos suite: each process is killed under load, and every law asked."""

import pytest

from pipelines import catalog
from tests.chaos.cells import QUICK, cell_of
from tests.chaos.drops import Drops
from tests.chaos.live import NAME, Live
from tests.chaos.runner import HELD, ready, walk
from tests.e2e.clients import asking

OFTEN = 25
"""How often the middle of a short write may be missed on a busy machine before the test gives up."""


@pytest.fixture(scope="module")
def live(stack):
    """Clients ask and label all the time, through all cells."""
    with asking(stack.settings.ports.proxy, stack.row(), threads=2, label_every=20, pause=0.01) as client:
        made = Live(stack, client, Drops(stack.data, catalog.load(NAME)))
        ready(made)
        yield made


@pytest.mark.parametrize("killed", QUICK)
def test_a_process_that_is_killed_comes_back_and_every_law_holds(live, killed):
    outcome = walk(live, cell_of(killed, "at rest"))
    assert (outcome.verdict, outcome.told) == (HELD, None)


def test_a_shipper_killed_while_it_writes_ships_each_answer_once(live):
    outcome = walk(live, cell_of("shipper", "shipping"), tries=OFTEN)
    assert (outcome.verdict, outcome.told) == (HELD, None)
