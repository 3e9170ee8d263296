"""NASH: differentiable search for the operations to add beside a fixed CNN backbone."""
