"""The tokens of an image tower: one that sums the image up, then those of its places."""

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch.nn import functional as F

from skmoecbm._vision_tower import all_tokens
from skmoecbm.exceptions import BackboneError

__all__ = ["pool_to_grid", "tower_tokens"]


def tower_tokens(visual, pixels):
    """Return the tokens that the pooling and the projection of a tower work on.

    Parameters
    ----------
    visual : torch.nn.Module
        The vision tower of an open_clip model.
    pixels : tensor of shape (n, 3, h, w)

    Returns
    -------
    summary : tensor of shape (n, d)
        What the tower projects into the space it shares with texts.
    patches : tensor of shape (n, P, d)
        Row by row from the upper left.
    grid : (int, int) or None
        Rows and columns of the patches; None where they have no places.

    Raises
    ------
    BackboneError
        If the tower has no tokens.
    """
    if isinstance(visual, VisionTransformer):
        return _of_transformer(visual, pixels)
    if isinstance(visual, TimmModel):
        return _of_timm(visual, pixels)
    if isinstance(visual, ModifiedResNet):
        return _of_resnet(visual, pixels)
    raise BackboneError(
        f"its image tower is a {type(visual).__name__}, of which no tokens are known. Take a "
        "vision transformer, a timm tower or a ResNet of open_clip, such as 'ViT-B-16/openai'"
    )


def _of_transformer(visual, pixels):
    if visual.pool_type == "none":
        raise BackboneError(
            "its pooling gives no token that sums the image up. Take a backbone with a class "
            "token, such as 'ViT-B-16/openai'"
        )
    tokens = all_tokens(visual, pixels)
    if visual.attn_pool is not None:
        summary, tokens = visual._pool(tokens)  # CoCa: the answers to learned queries
        return summary, tokens, None
    normed = visual.ln_post(tokens)
    if visual.pool_type == "tok":
        summary = normed[:, 0]
    elif visual.final_ln_after_pool:
        summary = visual.ln_post(tokens[:, 1:].mean(dim=1))
    else:
        summary = normed[:, 1:].mean(dim=1)
    return summary, normed[:, 1:], tuple(visual.grid_size)


def _of_timm(visual, pixels):
    trunk = visual.trunk
    features = trunk.forward_features(pixels)
    width = trunk.num_features
    if features.ndim == 4:  # (n, d, h, w), or (n, h, w, d) of a Swin transformer
        places = features if features.shape[1] == width else features.permute(0, 3, 1, 2)
        grid = tuple(places.shape[2:])
        patches = places.flatten(2).transpose(1, 2)
    else:
        patches = features[:, getattr(trunk, "num_prefix_tokens", 0) :]
        grid = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
        if grid is not None and grid[0] * grid[1] != patches.shape[1]:
            grid = None
    summary = trunk.forward_head(features, pre_logits=True)
    if summary.ndim != 2 or summary.shape[1] != patches.shape[2]:
        summary = patches.mean(dim=1)  # its pooling projects, or is left to the head
    return summary, patches, grid and tuple(grid)


def _of_resnet(visual, pixels):
    places = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels)))))
    pool = visual.attnpool
    grid, width = tuple(places.shape[2:]), places.shape[1]
    # as the pool reads them: the mean first, each with the embedding of its position
    seen = places.flatten(2).permute(2, 0, 1)
    seen = torch.cat([seen.mean(dim=0, keepdim=True), seen])
    seen = seen + pool.positional_embedding[:, None, :].to(seen.dtype)
    mixed, _ = F.multi_head_attention_forward(
        query=seen[:1],
        key=seen,
        value=seen,
        embed_dim_to_check=width,
        num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        # the projection into the common space comes after what is a token
        out_proj_weight=torch.eye(width, dtype=pool.v_proj.weight.dtype, device=seen.device),
        out_proj_bias=None,
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
    )
    return mixed[0], seen[1:].transpose(0, 1), grid


def pool_to_grid(patches, grid, size):
    """Return the means of patches over the cells of a coarser grid.

    Parameters
    ----------
    patches : tensor of shape (n, P, d)
    grid : (int, int)
        Rows and columns that they have.
    size : int
        Rows and columns of the coarser grid; its cells overlap where it does not divide the
        other.

    Returns
    -------
    tensor of shape (n, size * size, d)
    """
    places = patches.transpose(1, 2).unflatten(2, grid)
    return F.adaptive_avg_pool2d(places, size).flatten(2).transpose(1, 2)
