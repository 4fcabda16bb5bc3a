"""The library: what runs, in which order, with which tools. It knows no scheduler."""
