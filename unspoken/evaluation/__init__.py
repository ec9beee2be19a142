"""What all studies measure with: answers, likelihoods, altered messages, statistics, results."""
