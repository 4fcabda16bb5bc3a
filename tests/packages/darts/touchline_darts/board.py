"""What the use case's code needs beside itself: it must come along into the bento."""

RADIUS = 170.0
"""Of the scoring area, in mm."""
