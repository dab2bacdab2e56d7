"""Optuna's samplers and pruners with a search's settings."""

from __future__ import annotations

import optuna


def tpe(seed: int) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator, after 8 random trials."""
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=8)


def gp(seed: int) -> optuna.samplers.BaseSampler:
    """Gaussian process; needs PyTorch, and suits at most about 300 trials."""
    return optuna.samplers.GPSampler(seed=seed)


def nsga2(seed: int) -> optuna.samplers.BaseSampler:
    """Evolution of 16 configurations, made for two objectives."""
    return optuna.samplers.NSGAIISampler(seed=seed, population_size=16)


def random(seed: int) -> optuna.samplers.BaseSampler:
    """Independent random draws."""
    return optuna.samplers.RandomSampler(seed=seed)


none = optuna.pruners.NopPruner
median = optuna.pruners.MedianPruner
hyperband = optuna.pruners.HyperbandPruner
successive_halving = optuna.pruners.SuccessiveHalvingPruner
