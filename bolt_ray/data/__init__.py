"""Prompts: from any source into a store on disk, and from the store into a weighted stream."""
