"""What held-out reals say about a score: rules, p-values, rates, strata."""
