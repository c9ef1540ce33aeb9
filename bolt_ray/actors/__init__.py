"""The Ray actors and the driver's handles on them: generators, scorers, baseline shards, the learner's mailbox."""
