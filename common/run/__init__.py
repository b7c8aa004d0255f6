"""A job over an archive: the driver, the pools of workers, and the watchdog."""
