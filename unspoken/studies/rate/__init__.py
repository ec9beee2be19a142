"""Rate and distortion: what is lost when messages are made shorter."""
