"""What every package of NASH has: errors with their exit codes, manifests, output and progress."""
