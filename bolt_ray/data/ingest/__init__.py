"""From any source into the prompt store."""
