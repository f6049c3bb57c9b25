"""``rlgrad watch``: a trained policy at play, in a window or as a video, with what it thinks."""
