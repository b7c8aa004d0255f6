"""The decoder program: what runs alone in the confined child process, and nowhere else."""
