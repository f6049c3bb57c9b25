"""The laboratory: estimators of the policy gradient, measured at a frozen policy."""
