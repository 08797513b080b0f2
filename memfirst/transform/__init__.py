"""Graph → graph: other codecs (`recode`), one device of several (`shard`)."""
