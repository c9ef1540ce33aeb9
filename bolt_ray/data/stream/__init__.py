"""From the prompt store to tokenized prompts, in the order of the curriculum's draws."""
