"""The laws a schedule, a loss weight or a masking must obey, each checked numerically."""
