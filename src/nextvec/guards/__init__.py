"""Guards: gates, sentinel, success criteria and diagnosis. Numbers in, verdicts out; none needs torch."""
