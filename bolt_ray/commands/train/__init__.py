"""``bolt-ray train``: ``train`` runs it from beginning to end, ``assembly`` puts its parts together."""
