"""What keeps routers from sending every row to the same expert, and modalities apart."""

import torch

__all__ = ["balance", "importance_cv2", "jensen_shannon", "switch_loss", "z_loss"]


def _mean(values, weights):
    """Return the weighted mean over rows, (E,) of (n, E)."""
    if weights is None:
        return values.mean(0)
    return weights @ values / weights.sum()


def switch_loss(probabilities, chosen, weights=None):
    """Return E * sum_e f_e P_e, the balance loss of sparse routing.

    Parameters
    ----------
    probabilities : tensor of shape (n, E)
    chosen : bool tensor of shape (n, E)
        k experts a row. f_e is the share of all n * k choices: no gradient goes through it.
    weights : tensor of shape (n,), default=None
        Of the rows.

    Notes
    -----
    1 where everything is uniform, E where all goes to one, but not bounded below by 1. For a dense
    gate f is constant and so is the loss: use `importance_cv2` there.

    References
    ----------
    Fedus, Zoph and Shazeer (2022), "Switch transformers", equations 4 to 6. The sum of f - p that
    is printed elsewhere is always 0.

    Examples
    --------
    >>> import torch
    >>> one = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> float(switch_loss(one, one > 0))
    2.0
    """
    chosen = chosen.to(probabilities.dtype)
    k = chosen.sum(1).max().clamp_min(1.0)  # of rows that are not sent anywhere it is 0
    share = _mean(chosen, weights) / k
    return probabilities.shape[1] * (share * _mean(probabilities, weights)).sum()


def importance_cv2(gates, weights=None):
    """Return the squared coefficient of variation of the experts' importance.

    Parameters
    ----------
    gates : tensor of shape (n, E)
        Weights of the experts, zero for those not chosen.
    weights : tensor of shape (n,), default=None

    References
    ----------
    Shazeer et al. (2017), equations 6 and 7; with the variance of a population.

    Examples
    --------
    >>> import torch
    >>> float(importance_cv2(torch.tensor([[0.5, 0.5], [0.5, 0.5]])))
    0.0
    """
    importance = _mean(gates, weights)
    return importance.var(correction=0) / importance.mean().square().clamp_min(1e-30)


def z_loss(logits, weights=None):
    """Return the mean squared log-sum-exp of a router's logits (n, E), which keeps them small.

    References
    ----------
    Zoph et al. (2022), "ST-MoE", equation 5.
    """
    return _mean(logits.logsumexp(1, keepdim=True).square(), weights)[0]


def jensen_shannon(means):
    """Return the Jensen-Shannon divergence of M modalities' mean routing, (M, E), in nats.

    0 where all route alike, log(min(M, E)) where no two share an expert. As a bonus it makes
    modalities route differently; published text calls the same term "consensus".

    References
    ----------
    Han et al. (2024), "FuseMoE", equation 5: mean_m H(p_m) - H(mean_m p_m) is minus this.
    """

    def entropy(p):
        return -(p * p.clamp_min(1e-30).log()).sum(-1)  # with a finite slope at 0

    return entropy(means.mean(0)) - entropy(means).mean()


def balance(routings, share, balancing):
    """Return what keeps the routers in balance, as a part of the loss."""
    total, means = 0.0, []
    for routing in routings:
        weights = share * routing.present
        if not (weights > 0).any():
            continue
        if balancing.loss == "switch":
            total = total + balancing.weight * switch_loss(
                routing.probabilities, routing.weights > 0, weights
            ) / len(routings)
        elif balancing.loss == "importance":
            total = total + balancing.weight * importance_cv2(routing.weights, weights) / len(
                routings
            )
        if balancing.z_loss:
            total = total + balancing.z_loss * z_loss(routing.logits, weights) / len(routings)
        means.append(weights @ routing.probabilities / weights.sum())
    if balancing.modality_entropy and len(means) > 1:
        total = total - balancing.modality_entropy * jensen_shannon(torch.stack(means))
    return total
