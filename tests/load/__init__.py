"""A steady load of requests through swaps of the champion and deaths of places: `python -m tests.load`.

The generator is an open loop (`touchline simulate`): a request goes when it is meant to, answered or not the one
before, and its time counts from then, so that waiting is counted.
"""
