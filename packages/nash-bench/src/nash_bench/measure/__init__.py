"""From a network to figures: execution, accuracy and throughput, and what synthesis and the board said."""
