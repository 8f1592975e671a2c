"""Training PJVLT with Accelerate: arguments, checkpoints and the loop."""
