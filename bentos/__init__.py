"""The BentoML service and the build of a bento; thin."""
