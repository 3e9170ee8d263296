"""What every package of NASH has: errors, manifests, output and progress; and several processes."""
