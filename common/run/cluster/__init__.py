"""Ray: the only folder of mien that imports it."""
