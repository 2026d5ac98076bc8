"""Questions about runs: other data sets, judges, variances, lengths, their history."""
