"""Real material for demonstrations and tests: a small BERT and people's ratings of film reviews, fetched by hash."""
