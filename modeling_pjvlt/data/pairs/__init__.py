"""Training pairs: the sources they are drawn from, the crops they become, and how sources are mixed."""
