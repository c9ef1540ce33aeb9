"""``bolt-ray pretrain``: ``embedded`` teaches the embedded model, ``rows`` a tiny model from the rows of datasets."""
