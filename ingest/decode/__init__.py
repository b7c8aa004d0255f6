"""Videos to frames: the reader, and the confined child process that decodes."""
