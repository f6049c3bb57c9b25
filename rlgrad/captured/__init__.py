"""The whole training iteration as one program over device tensors, replayed as a CUDA graph."""
