"""A job over an archive: its run, its workers, and what watches over them."""
