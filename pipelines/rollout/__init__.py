"""What serves: the wish in the registry, made true by the reconciler."""
