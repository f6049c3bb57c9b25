"""Whether a vector environment keeps what ``gymnasium.vector.VectorEnv`` promises."""

from rlgrad.checking.findings import Finding, Report, VectorEnvError
from rlgrad.checking.vector import check_vector_env

__all__ = ["Finding", "Report", "VectorEnvError", "check_vector_env"]
