"""``rlgrad doctor``: whether training works here, and what is missing for what."""
