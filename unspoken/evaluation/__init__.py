"""What all studies use to measure: answers, likelihoods, altered messages, statistics, results."""
