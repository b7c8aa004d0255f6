"""The decoder program. Its modules run only in the confined child process."""
