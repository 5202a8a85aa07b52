"""What the training stages share: models, optimiser groups, encoding, and one function per TRL trainer."""
