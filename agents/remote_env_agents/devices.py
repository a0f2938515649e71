"""Where a network is: a device of PyTorch, which must be there."""

from __future__ import annotations

from remote_env.errors import ConfigurationError

__all__ = ["check_device"]


def check_device(name: str) -> None:
    """Refuse a device that is not there; Stable-Baselines3 would take the CPU and not say so.

    Args:
        name: As of ``torch.device``, such as ``"cuda:1"``; or ``"auto"``, a GPU if there is one.

    Raises:
        ConfigurationError: Saying what PyTorch says.
    """
    import torch

    if name == "auto":
        return
    try:
        torch.zeros(1, device=name).tolist()
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"there is no device {name!r:.40} for the network: {error!s:.120}; give "
            "--device cpu, or auto for a GPU if there is one"
        ) from error
