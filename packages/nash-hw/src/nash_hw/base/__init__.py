"""What every package of NASH has: errors, manifests, output and progress; and a folder that is written whole."""
