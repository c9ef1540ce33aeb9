"""``bolt-ray submit``: ``job`` says what a run is as a Ray job, ``submit`` hands it to a cluster and follows it."""
