"""Statistics that know nothing of networks: paired differences, intervals, non-dominated sets."""
