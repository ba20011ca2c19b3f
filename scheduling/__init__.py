"""When exports run, and what became of every run."""
