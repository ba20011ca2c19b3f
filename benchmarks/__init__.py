"""Speed and memory, side by side with the alternatives in the same run."""
