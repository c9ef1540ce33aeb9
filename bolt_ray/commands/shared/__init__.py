"""What several commands need: the Ray session, inputs, prompts, resources."""
