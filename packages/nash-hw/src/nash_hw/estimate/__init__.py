"""What a design takes and how fast it is: cycles, resources, streams, and how sure the figures are."""
