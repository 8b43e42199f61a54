"""What several tests share: models, pictures, oracles, hostile inputs, and the App's side of operators and panels."""
