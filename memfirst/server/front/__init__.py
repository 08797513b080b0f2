"""`memfirst serve --replica URL …`: one address for several servers of a model."""
