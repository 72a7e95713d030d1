"""Demo material: a small BERT and film reviews with human ratings, downloaded by hash."""
