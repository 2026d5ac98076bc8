"""From clean tokens to a scored forward pass: corruption, the training objective, likelihood terms."""
